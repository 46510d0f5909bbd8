import { randomBytes } from 'node:crypto'
import type { TokenList } from './token-list.ts'

/** Longer words hardly come again and would fill the cache. */
const rangeUnitsMax = 256

/**
 * Remembers what stretches of text encode to, without making a string of them. Bounded: when the young generation is
 * full it becomes the old one, and what was not asked for since the last time is forgotten.
 */
export class RangeCache {
  #young: Generation
  #old: Generation

  /** Holds at most twice `wordsMax` words, a power of two. */
  constructor(wordsMax = 32_768) {
    this.#young = new Generation(wordsMax)
    this.#old = new Generation(wordsMax)
  }

  /** Appends what the stretch encodes to; false where that is not known. */
  push(text: string, start: number, end: number, ids: TokenList): boolean {
    if (end - start > rangeUnitsMax) return false
    const hash = hashOf(text, start, end)
    const young = this.#young.find(hash, text, start, end)
    if (young >= 0) {
      this.#young.push(young, ids)
      return true
    }
    const old = this.#old.find(hash, text, start, end)
    if (old < 0) return false
    this.#old.push(old, ids)
    this.#add(hash, text, start, end, this.#old.idsOf(old))
    return true
  }

  set(text: string, start: number, end: number, ids: Int32Array): void {
    if (end - start <= rangeUnitsMax) this.#add(hashOf(text, start, end), text, start, end, ids)
  }

  #add(hash: number, text: string, start: number, end: number, ids: Int32Array): void {
    if (this.#young.isFull) {
      const old = this.#old
      this.#old = this.#young
      this.#young = old
      old.clear()
    }
    this.#young.add(hash, text, start, end, ids)
  }
}

/** Of this process: nobody can write a text whose words all fall into one slot. What is encoded does not depend on it. */
const basis = randomBytes(4).readInt32LE()

/** FNV-1a over UTF-16 units, from a basis that nobody knows. */
function hashOf(text: string, start: number, end: number): number {
  let hash = basis
  for (let at = start; at < end; at++) hash = Math.imul(hash ^ text.charCodeAt(at), 0x01000193)
  return hash ^ (hash >>> 15)
}

/** Words in an open-addressing table; their units and ids lie behind one another. */
class Generation {
  readonly #wordsMax: number
  /** One more than the number of a word; 0 where nothing is. */
  readonly #slots: Int32Array
  readonly #hashes: Int32Array
  readonly #unitStarts: Int32Array
  readonly #idStarts: Int32Array
  #units = new Uint16Array(1 << 16)
  #ids = new Int32Array(1 << 16)
  #words = 0

  constructor(wordsMax: number) {
    this.#wordsMax = wordsMax
    this.#slots = new Int32Array(2 * wordsMax)
    this.#hashes = new Int32Array(wordsMax)
    this.#unitStarts = new Int32Array(wordsMax + 1)
    this.#idStarts = new Int32Array(wordsMax + 1)
  }

  get isFull(): boolean {
    return this.#words === this.#wordsMax
  }

  clear(): void {
    this.#slots.fill(0)
    this.#words = 0
  }

  /** Number of the word, or -1. */
  find(hash: number, text: string, start: number, end: number): number {
    const mask = this.#slots.length - 1
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const word = this.#slots[slot]! - 1
      if (word < 0 || (this.#hashes[word] === hash && this.#isWord(word, text, start, end))) return word
    }
  }

  #isWord(word: number, text: string, start: number, end: number): boolean {
    const first = this.#unitStarts[word]!
    if (this.#unitStarts[word + 1]! - first !== end - start) return false
    for (let at = start; at < end; at++)
      if (this.#units[first + at - start] !== text.charCodeAt(at)) return false
    return true
  }

  push(word: number, ids: TokenList): void {
    ids.pushRange(this.#ids, this.#idStarts[word]!, this.#idStarts[word + 1]!)
  }

  idsOf(word: number): Int32Array {
    return this.#ids.subarray(this.#idStarts[word]!, this.#idStarts[word + 1]!)
  }

  add(hash: number, text: string, start: number, end: number, ids: Int32Array): void {
    const word = this.#words++
    const [firstUnit, firstId] = [this.#unitStarts[word]!, this.#idStarts[word]!]
    if (this.#units.length < firstUnit + end - start) this.#units = grown(this.#units)
    if (this.#ids.length < firstId + ids.length) this.#ids = grown(this.#ids)
    for (let at = start; at < end; at++) this.#units[firstUnit + at - start] = text.charCodeAt(at)
    this.#ids.set(ids, firstId)
    this.#unitStarts[word + 1] = firstUnit + end - start
    this.#idStarts[word + 1] = firstId + ids.length
    this.#hashes[word] = hash
    const mask = this.#slots.length - 1
    let slot = hash & mask
    while (this.#slots[slot] !== 0) slot = (slot + 1) & mask
    this.#slots[slot] = word + 1
  }
}

/** Twice as long; one word always fits into what is added. */
function grown<Values extends Uint16Array | Int32Array>(values: Values): Values {
  const more = new (values.constructor as new (length: number) => Values)(2 * values.length)
  more.set(values)
  return more
}
