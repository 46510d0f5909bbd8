/** Remembers values by a text, so many at most; the least recently used is the first to go. */
export class Recent<Value> {
  readonly #most: number
  readonly #values = new Map<string, { value: Value }>()

  constructor(most: number) {
    this.#most = most
  }

  has(key: string): boolean {
    return this.#values.has(key)
  }

  /** The value, made where it is not known. */
  get(key: string, make: () => Value): Value {
    const known = this.#values.get(key) ?? { value: make() }
    this.#values.delete(key)
    if (this.#values.size === this.#most) this.#values.delete(this.#values.keys().next().value!)
    this.#values.set(key, known)
    return known.value
  }
}
