/**
 * Reads the flat XML that S3's operations answer with (AWS "API Reference", each operation's response syntax).
 * Its elements are simple and have no attributes of interest, so tags are found by name; what is between them is
 * decoded, never run or followed.
 */

/** The contents of every element `name` in the order of the document, still encoded. */
export function elements(xml: string, name: string): string[] {
  const found: string[] = []
  const close = `</${name}>`
  for (let at = 0; ; ) {
    const open = openingTag(xml, name, at)
    if (open === undefined) return found
    if (open.empty) {
      found.push('')
      at = open.end
      continue
    }
    const end = xml.indexOf(close, open.end)
    if (end < 0) return found
    found.push(xml.slice(open.end, end))
    at = end + close.length
  }
}

function openingTag(xml: string, name: string, from: number): { end: number; empty: boolean } | undefined {
  for (let at = xml.indexOf(`<${name}`, from); at >= 0; at = xml.indexOf(`<${name}`, at + 1)) {
    const next = xml[at + name.length + 1]
    const end = xml.indexOf('>', at)
    if (end >= 0 && (next === '>' || next === ' ' || next === '/')) {
      return { end: end + 1, empty: xml[end - 1] === '/' }
    }
  }
  return undefined
}

/** The text of the first element `name`, or undefined. */
export function textOf(xml: string, name: string): string | undefined {
  const [first] = elements(xml, name)
  return first === undefined ? undefined : decodeXml(first)
}

const entities: Record<string, string> = { lt: '<', gt: '>', amp: '&', quot: '"', apos: "'" }

export function decodeXml(text: string): string {
  return text.replace(/&(#x?[0-9a-fA-F]+|[a-z]+);/g, (whole, name: string) => {
    if (!name.startsWith('#')) return entities[name] ?? whole
    const code = name[1] === 'x' ? Number.parseInt(name.slice(2), 16) : Number.parseInt(name.slice(1), 10)
    return code <= 0x10ffff ? String.fromCodePoint(code) : whole
  })
}

export function encodeXml(text: string): string {
  return text.replace(/[<>&"']/g, (character) => `&#${character.charCodeAt(0)};`)
}

/** A key of an answer that was asked for with `encoding-type=url`. */
export function decodeKey(text: string): string {
  return decodeURIComponent(decodeXml(text).replace(/\+/g, '%20'))
}
