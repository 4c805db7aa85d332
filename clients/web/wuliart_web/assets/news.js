// Asks for the styles anew whenever the server says that they have changed. Only while the page is
// looked at: a browser keeps six connections to one address, and each open page would hold one.
let news = null;
const follow = () => {
  news?.close();
  news = document.hidden ? null : new EventSource("NEWS");
  if (news) news.onmessage = () => trigger("news");
};
document.addEventListener("visibilitychange", follow);
follow();
