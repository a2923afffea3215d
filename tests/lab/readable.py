"""Whether the text of a page can be read: its size, and how it stands out from what is painted behind it (WCAG 2)."""

from __future__ import annotations

from tests.lab.chromium import Chromium, Page

PIECES = """
((root) => {
  const pencil = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true})
  const known = new Map()  // a page has few colours and thousands of pieces of text
  const channels = (colour) => {  // of any notation
    if (!known.has(colour)) {
      pencil.clearRect(0, 0, 1, 1)
      pencil.fillStyle = colour
      pencil.fillRect(0, 0, 1, 1)
      const [r, g, b, alpha] = pencil.getImageData(0, 0, 1, 1).data
      known.set(colour, [r, g, b, alpha / 255])
    }
    return known.get(colour)
  }
  const over = (top, below) => {
    return [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * below[i])
  }
  const light = (colour) => {
    const [r, g, b] = colour.map((c) => c / 255).map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const behind = (element) => {
    const layers = []
    for (let at = element; at; at = at.parentElement) layers.unshift(channels(getComputedStyle(at).backgroundColor))
    return layers.reduce((below, top) => over(top, below), [255, 255, 255])
  }
  const found = []
  const texts = document.createTreeWalker(document.querySelector(root), NodeFilter.SHOW_TEXT)
  while (texts.nextNode()) {
    const text = texts.currentNode.nodeValue.trim(), element = texts.currentNode.parentElement
    if (!text || element.closest('script, style, svg, .headerlink') || !element.checkVisibility()) continue
    const style = getComputedStyle(element), ground = behind(element)
    const [a, b] = [light(over(channels(style.color), ground)), light(ground)].sort((x, y) => y - x)
    found.push([text.slice(0, 40), (a + 0.05) / (b + 0.05), parseFloat(style.fontSize)])
  }
  return found
})
"""


def text_pieces(browser: Chromium, page: Page, root: str) -> list[tuple[str, float, float]]:
    """Each visible piece of text in the first element that matches: its beginning, contrast ratio, size in pixels."""
    return browser.evaluate(page, f"{PIECES.strip()}({root!r})")
