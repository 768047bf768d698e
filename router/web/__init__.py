"""The pages that people look at: server-rendered, one style sheet, nothing from another host."""
