// Copy what is to be copied; send a form once, however often its button is pressed.
(function () {
  "use strict";

  function select(node) {
    var range = document.createRange();
    range.selectNodeContents(node);
    var selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  }
  function tell(button, text) {
    button.textContent = text;
    setTimeout(function () { button.textContent = "Copy"; }, 2500);
    var said = document.getElementById("copied");
    if (!said) {
      said = document.createElement("p");
      said.id = "copied";
      said.className = "sr";
      said.setAttribute("role", "status");
      document.getElementById("main").append(said);
    }
    said.textContent = text;
  }
  document.addEventListener("click", function (event) {
    var button = event.target.closest ? event.target.closest("[data-copy]") : null;
    if (!button) return;
    var node = document.getElementById(button.dataset.copy);
    function byHand() {  // where the page is not of a secure origin browsers give no clipboard
      select(node);
      tell(button, document.execCommand("copy") ? "Copied" : "Selected");
    }
    if (!navigator.clipboard) return byHand();
    navigator.clipboard.writeText(node.textContent).then(function () { tell(button, "Copied"); }, byHand);
  });

  document.addEventListener("submit", function (event) {
    var form = event.target;
    if (form.method !== "post") return;
    if (form.dataset.sent) return event.preventDefault();
    form.dataset.sent = "yes";
  });
  window.addEventListener("pageshow", function () {
    document.querySelectorAll("form[data-sent]").forEach(function (form) { delete form.dataset.sent; });
  });
})();
