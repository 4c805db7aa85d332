// Refreshes the lists when the server reports a change. Only while the page is visible: a browser
// opens six connections to one address at most, and each open page would hold one.
let news = null;
const follow = () => {
  news?.close();
  news = document.hidden ? null : new EventSource("NEWS");
  if (news) news.onmessage = () => trigger("news");
};
document.addEventListener("visibilitychange", follow);
follow();
