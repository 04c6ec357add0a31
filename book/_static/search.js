// Search results quote the page's text, not its title, its code and the buttons around it.
if (typeof Search !== "undefined") {
  const plain = Search.htmlToText;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    const article = page.querySelector("article.bd-article");
    if (!article) return plain(html, anchor);
    if (!anchor) article.querySelectorAll("h1, .cell_input, .cell_output").forEach((part) => part.remove());
    return plain(`<div role="main">${article.innerHTML}</div>`, anchor);
  };
  // A browser does not let a page that was opened as a file read its neighbours: titles alone, then.
  if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
}
