// What the page gains by a script: a filter over the operations, and buttons that copy. Without it, everything is there to read.
const filter = document.getElementById('filter');
const operations = [...document.querySelectorAll('details[data-of]')];
filter.closest('p').hidden = false;
filter.addEventListener('input', () => {
  const words = filter.value.toLowerCase().split(/\s+/);
  const fits = (text) => words.every((word) => text.includes(word));
  for (const it of [...operations, ...document.querySelectorAll('nav li')]) it.hidden = !fits(it.dataset.of);
  for (const it of document.querySelectorAll('nav section, main > section[data-group]')) it.hidden = !it.querySelector('[data-of]:not([hidden])');
});
document.addEventListener('keydown', (event) => {
  if (event.key === '/' && document.activeElement !== filter) { event.preventDefault(); filter.focus(); }
  if (event.key === 'Escape' && document.activeElement === filter) { filter.value = ''; filter.dispatchEvent(new Event('input')); }
});
for (const pre of document.querySelectorAll('pre.curl')) {
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = 'Copy';
  button.addEventListener('click', async () => {
    try { await navigator.clipboard.writeText(pre.textContent); button.textContent = 'Copied'; } catch { getSelection().selectAllChildren(pre); }
  });
  pre.before(button);
}
const open = () => { document.getElementById(location.hash.slice(1))?.closest('details')?.setAttribute('open', ''); };
addEventListener('hashchange', open);
open();
