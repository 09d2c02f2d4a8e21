// What can be seen on a MiniWoB++ page: [{kind, text, value, colour, box}], in the order of the document.
var SHOWN = ['BUTTON', 'INPUT', 'TEXTAREA', 'SELECT', 'A', 'circle', 'rect', 'polygon', 'text'];
var KINDS = {a: 'link', textarea: 'field', select: 'list', rect: 'square', polygon: 'triangle', text: 'letter', password: 'field',
  checkbox: 'box', radio: 'option', number: 'field'};
var NAMES = {red: [255, 0, 0], green: [0, 128, 0], lime: [0, 255, 0], blue: [0, 0, 255], aqua: [0, 255, 255], black: [0, 0, 0],
  magenta: [255, 0, 255], yellow: [255, 255, 0], orange: [255, 165, 0], purple: [128, 0, 128], pink: [255, 192, 203],
  grey: [128, 128, 128], white: [255, 255, 255], olive: [128, 128, 0], brown: [165, 42, 42]};
function named(colour) {
  var parts = (colour || '').match(/[\d.]+/g);
  if (!parts || parts.length == 4 && parts[3] == 0) return '';
  var apart = function (name) {
    return NAMES[name].reduce(function (sum, value, place) { return sum + Math.pow(value - parts[place], 2) }, 0);
  };
  return Object.keys(NAMES).sort(function (one, other) { return apart(one) - apart(other) })[0];
}
function own(element) {  // text that stands in the element itself
  return Array.from(element.childNodes).filter(function (node) { return node.nodeType == 3 })
    .map(function (node) { return node.data }).join(' ').replace(/\s+/g, ' ').trim();
}
function labelled(element) {
  var text = own(element) || element.textContent.trim() || element.title || '';
  var next = element.nextSibling || element.parentNode.nextSibling;
  if (element.type == 'radio' || element.type == 'checkbox') text = (element.parentNode.textContent || (next && next.textContent) || '').trim() ||
    (next && next.textContent || '').trim();
  if (element.tagName == 'TEXTAREA') text = '';
  return text.replace(/\s+/g, ' ').slice(0, 40);
}
var left_out = '#query, #query *, #reward-display, #reward-display *, #sync-task-cover, #click-canvas, script, option';
return Array.from(document.querySelectorAll('body *')).filter(function (element) {
  var box = element.getBoundingClientRect();
  if (element.matches(left_out) || box.width < 3 || box.height < 3 || box.left < 0 || box.top < 0) return false;
  if (box.left + box.width / 2 >= 160 || box.top + box.height / 2 >= 210) return false;
  var coloured = element.classList.contains('color') || element.classList.contains('alink');
  return SHOWN.indexOf(element.tagName) >= 0 || coloured || own(element) && !element.closest('button, a, .alink, label');
}).map(function (element) {
  var box = element.getBoundingClientRect(), tag = element.tagName.toLowerCase(), style = window.getComputedStyle(element);
  var drawn = element instanceof SVGElement, type = tag == 'input' ? element.type : tag;
  var kind = element.classList.contains('alink') ? 'link' : element.classList.contains('color') ? 'patch' : type == 'text' && !drawn ? 'field' : KINDS[type] ||
    (SHOWN.indexOf(element.tagName) >= 0 ? tag : 'text');
  if (kind == 'letter' && /^\d+$/.test(element.textContent.trim())) kind = 'digit';
  return {
    kind: (drawn ? (box.width >= 12 || box.height > 14 ? 'large ' : 'small ') : '') + kind,
    text: labelled(element),
    value: type == 'checkbox' || type == 'radio' ? (element.checked ? 'x' : '') : 'value' in element && tag != 'button' ? String(element.value) : '',
    colour: drawn ? named(style.fill) : kind == 'patch' ? named(style.backgroundColor) : '',
    box: [Math.round(box.left), Math.round(box.top), Math.round(box.width), Math.round(box.height)]
  };
});
