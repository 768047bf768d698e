// The page /ui/explain: attach an image, take an example, send and show the answer as it comes.
(function () {
  "use strict";

  var form = document.getElementById("explain");
  var MOST_BYTES = 20 * 1024 * 1024;
  function at(id) { return document.getElementById(id); }
  function decide() { form.requestSubmit(); }

  // The image becomes a data URI here and is sent to the router alone.
  function show(uri, about) {
    at("x-image").value = uri;
    at("x-picture").hidden = !uri;
    if (uri) at("x-preview").src = uri; else at("x-preview").removeAttribute("src");
    at("x-about").textContent = about;
    decide();
  }
  function take(file) {
    at("x-note").textContent = "";
    if (!/^image\/(png|jpeg|webp|gif)$/.test(file.type)) {
      at("x-note").textContent = "Attach a PNG, JPEG, WebP or GIF image.";
      return;
    }
    if (file.size > MOST_BYTES) {
      at("x-note").textContent = "The image is larger than 20 MiB.";
      return;
    }
    var reader = new FileReader();
    reader.onload = function () { show(String(reader.result), file.name + ", " + Math.ceil(file.size / 1024) + " KiB"); };
    reader.readAsDataURL(file);
  }
  at("x-file").addEventListener("change", function (event) {
    event.stopPropagation();
    if (this.files.length) take(this.files[0]);
    this.value = "";
  });
  at("x-text").addEventListener("paste", function (event) {
    var file = event.clipboardData && event.clipboardData.files[0];
    if (!file) return;
    event.preventDefault();
    take(file);
  });
  at("x-remove").addEventListener("click", function () { show("", ""); at("x-text").focus(); });
  document.querySelectorAll("[data-example]").forEach(function (button) {
    button.addEventListener("click", function () { at("x-text").value = button.dataset.example; decide(); });
  });

  // Send what was decided for, and show what comes.
  var running = null;
  document.addEventListener("click", function (event) {
    if (event.target.closest("[data-send]")) send();
  });
  at("answer-stop").addEventListener("click", function () { if (running) running.abort(); });

  function fact(name, value, href) {
    if (value === null || value === undefined || value === "") return;
    var row = document.createElement("div"), term = document.createElement("dt"), said = document.createElement("dd");
    term.textContent = name;
    if (href) {
      var link = document.createElement("a");
      link.href = href;
      link.textContent = value;
      said.append(link);
    } else said.textContent = value;
    said.className = "wrap";
    row.append(term, said);
    at("answer-facts").append(row);
  }
  function state(text, wrong) {
    at("answer-state").textContent = text;
    at("answer-state").className = wrong ? "bad" : "muted small";
  }
  function seconds(ms) { return ms < 1000 ? Math.round(ms) + " ms" : (ms / 1000).toFixed(2) + " s"; }
  function told(error) { return (error && (error.message || error.error && error.error.message)) || "It failed without saying why."; }

  async function send() {
    if (running) running.abort();
    var mine = running = new AbortController();
    var key = at("answer-key");
    at("answer").hidden = false;
    at("answer-text").textContent = at("answer-thinking").textContent = "";
    at("answer-thoughts").hidden = true;
    at("answer-facts").replaceChildren();
    at("answer").scrollIntoView({ block: "nearest" });
    if (key && !key.value.trim()) {
      state("This router asks for an API key: give one and send again.", true);
      key.focus();
      running = null;
      return;
    }
    state("sending…");
    at("answer-stop").hidden = false;
    at("answer-text").setAttribute("aria-busy", "true");
    try {
      await stream(mine.signal, key ? key.value.trim() : "");
    } catch (error) {
      if (running === mine) state(error.name === "AbortError" ? "stopped" : told(error), error.name !== "AbortError");
    } finally {
      if (running === mine) {
        running = null;
        at("answer-stop").hidden = true;
        at("answer-text").setAttribute("aria-busy", "false");
      }
    }
  }

  async function stream(signal, key) {
    var made = await fetch("/ui/explain/body", { method: "POST", body: new FormData(form), signal: signal });
    if (!made.ok) throw new Error("The router could not make the request of it; press Explain to see why.");
    var headers = { "content-type": "application/json" };
    if (key) headers.authorization = "Bearer " + key;
    var began = performance.now(), first = null;
    var answer = await fetch("/v1/chat/completions", { method: "POST", headers: headers, body: await made.text(), signal: signal, credentials: "omit" });
    heads(answer.headers);
    if (!answer.ok) throw new Error(told((await answer.json()).error));
    state("answering…");
    var usage = null, wrong = null, calls = {};
    await events(answer.body, function (chunk) {
      if (chunk.error) wrong = chunk.error;
      if (chunk.usage) usage = chunk.usage;
      var delta = chunk.choices && chunk.choices[0] && chunk.choices[0].delta || {};
      var thought = delta.reasoning_content || delta.reasoning;
      if (first === null && (delta.content || thought || delta.tool_calls)) first = performance.now() - began;
      if (typeof thought === "string") { at("answer-thoughts").hidden = false; at("answer-thinking").append(thought); }
      if (delta.content) at("answer-text").append(delta.content);
      (delta.tool_calls || []).forEach(function (call) {
        var name = call.function && call.function.name;
        if (name && !calls[call.index]) { calls[call.index] = true; at("answer-text").append("\n[calls " + name + "] "); }
        at("answer-text").append(call.function && call.function.arguments || "");
      });
    });
    if (first !== null) fact("First token here", seconds(first));
    fact("Whole answer here", seconds(performance.now() - began));
    if (usage) {
      fact("Tokens", usage.prompt_tokens + " in, " + usage.completion_tokens + " out");
      if (usage.cost !== undefined) fact("Cost", usage.cost.toFixed(9).replace(/0+$/, "").replace(/\.$/, ".0") + " USD");
    }
    if (wrong) throw wrong;
    state("done");
  }

  function heads(headers) {
    var id = headers.get("x-request-id");
    fact("Model", headers.get("x-llm-router-resolved-model"));
    fact("Provider", headers.get("x-llm-router-provider"));
    fact("Category", headers.get("x-llm-router-category"));
    fact("Confidence", headers.get("x-llm-router-confidence"));
    fact("Reason", headers.get("x-llm-router-reason"));
    fact("Attempts", headers.get("x-llm-router-attempts"));
    fact("Catalog", headers.get("x-llm-router-catalog"));
    fact("Server timing", headers.get("server-timing"));
    fact("Request", id, id ? "/ui/requests/" + encodeURIComponent(id) : "");
  }

  // Server-sent events, as the chat route writes them: "data: " lines between blank ones.
  async function events(body, take) {
    var reader = body.getReader(), decoder = new TextDecoder(), rest = "";
    for (;;) {
      var part = await reader.read();
      if (part.done) return;
      rest += decoder.decode(part.value, { stream: true });
      var blocks = rest.split(/\r?\n\r?\n/);
      rest = blocks.pop();
      blocks.forEach(function (block) {
        var data = block.split(/\r?\n/).filter(function (line) { return line.startsWith("data:"); })
          .map(function (line) { return line.slice(5).trim(); }).join("\n");
        if (data && data !== "[DONE]") take(JSON.parse(data));
      });
    }
  }
})();
