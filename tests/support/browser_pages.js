// What can only be asked of a page in a browser. Each function returns the faults that it finds, as sentences.

function parts(long) {
  const faults = [];
  const figures = [...document.querySelectorAll("figure")];
  for (const figure of figures) {
    const words = figure.querySelector("figcaption")?.innerText.trim() ?? "";
    if (!/^(Figure|Table) \d+\. \S/.test(words)) faults.push(`a figure or table without a numbered caption: ${words}`);
    if (!/^(figure|table)-\d+$/.test(figure.id)) faults.push(`a figure or table without an anchor: ${words}`);
  }
  const sections = document.querySelectorAll("main h2").length;
  if (sections >= long && figures.length && !document.querySelector("nav.contents")) {
    faults.push("no contents on a long page");
  }
  for (const link of document.querySelectorAll('a[href^="#"]')) {
    const place = link.getAttribute("href").slice(1);
    if (!document.getElementById(place)) faults.push(`no place for #${place}`);
  }
  return faults;
}

// Whether every picture shows the source that this window asks for: a browser goes on with the old one while it loads.
function settled() {
  return [...document.querySelectorAll("picture img")].every((image) => {
    const sources = [...image.parentElement.querySelectorAll("source")];
    const chosen = sources.find((source) => matchMedia(source.media).matches);
    return image.complete && image.currentSrc === (chosen ? chosen.srcset : image.src);
  });
}

// Words in figures, in CSS pixels as they are shown.
function words(smallest) {
  const faults = [];
  for (const image of document.querySelectorAll("figure img")) {
    if (!image.currentSrc.startsWith("data:image/svg+xml,") || !image.clientWidth) continue;
    const svg = decodeURIComponent(image.currentSrc.slice("data:image/svg+xml,".length));
    const scale = image.clientWidth / Number(/viewBox=['"]0 0 ([0-9.]+)/.exec(svg)[1]);
    const sizes = [...svg.matchAll(/font-size:([0-9.]+)px/g)].map((found) => found[1] * scale);
    const least = Math.min(...sizes);
    if (least < smallest) faults.push(`words of ${least.toFixed(1)} pixels in ${image.alt.slice(0, 60)}`);
  }
  return faults;
}

// Elements beyond the window, but for what scrolls in a box of its own.
function sides() {
  const boxed = (element) =>
    element && (/auto|scroll|hidden/.test(getComputedStyle(element).overflowX) || boxed(element.parentElement));
  const right = (element) => element.getBoundingClientRect().right;
  const far = [...document.body.querySelectorAll("*")].filter(
    (each) => each.getClientRects().length && right(each) > innerWidth + 1 && !boxed(each.parentElement));
  return far.slice(0, 3).map((each) => `${each.tagName} ${each.className} sticks out to ${right(each)}`);
}

// Contrast as WCAG 2 defines it.
function colours(least) {
  const numbers = (colour) => (colour.match(/[0-9.]+/g) ?? []).map(Number);
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => {
    const [r, g, b] = rgb.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = numbers(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.5) return colour;
    }
    return [255, 255, 255];
  };
  const faults = new Set();
  for (const element of document.body.querySelectorAll("*")) {
    const says = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!says || !element.getClientRects().length) continue;
    const both = [light(numbers(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (both[0] + 0.05) / (both[1] + 0.05);
    if (ratio < least) faults.add(`contrast ${ratio.toFixed(2)} of ${element.tagName} ${element.className}`);
  }
  return [...faults].slice(0, 5);
}
