/**
 * 53-bit hashes for looking things up. Nothing relies on them being free of collisions: whoever finds
 * something by hash compares the content.
 */
export function hashTokens(seed: number, tokens: readonly number[], from: number, to: number): number {
  let low = seed >>> 0
  let high = Math.floor(seed / 4294967296) >>> 0
  for (let i = from; i < to; i++) {
    low = Math.imul(low ^ tokens[i]!, 0x9e3779b1)
    low ^= low >>> 15
    high = Math.imul((high ^ low) + 0x7f4a7c15, 0x85ebca6b)
    high ^= high >>> 13
  }
  return (high & 0x1fffff) * 4294967296 + (low >>> 0)
}

export function hashText(text: string): number {
  const codes = Array.from({ length: text.length }, (_, i) => text.charCodeAt(i))
  return hashTokens(0x811c9dc5, codes, 0, codes.length)
}
