/** Token ids that are appended one after the other, in memory that is used again for the next text. */
export class TokenList {
  #ids = new Int32Array(256)
  length = 0

  push(id: number): void {
    if (this.length === this.#ids.length) this.#reserve(1)
    this.#ids[this.length++] = id
  }

  append(ids: Int32Array): void {
    this.#reserve(ids.length)
    this.#ids.set(ids, this.length)
    this.length += ids.length
  }

  /** Appends `ids` from place `start` up to place `end`; for a few, this is quicker than {@link append}. */
  pushRange(ids: Int32Array, start: number, end: number): void {
    if (this.length + end - start > this.#ids.length) this.#reserve(end - start)
    const own = this.#ids
    let { length } = this
    for (let at = start; at < end; at++) own[length++] = ids[at]!
    this.length = length
  }

  /** A view of what is there, good until more is appended. */
  get ids(): Int32Array {
    return this.#ids.subarray(0, this.length)
  }

  #reserve(more: number): void {
    if (this.length + more <= this.#ids.length) return
    const grown = new Int32Array(Math.max(this.length + more, 2 * this.#ids.length))
    grown.set(this.ids)
    this.#ids = grown
  }
}
