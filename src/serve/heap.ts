/** An item that remembers its place in an {@link IndexedHeap}, so that it can leave from the middle. */
export interface HeapItem {
  heapIndex: number
}

/** Binary heap whose items may change their key or leave at any time, each in O(log n). */
export class IndexedHeap<T extends HeapItem> {
  readonly #items: T[] = []
  readonly #before: (a: T, b: T) => boolean

  constructor(before: (a: T, b: T) => boolean) {
    this.#before = before
  }

  get size(): number {
    return this.#items.length
  }

  peek(): T | undefined {
    return this.#items[0]
  }

  push(item: T): void {
    item.heapIndex = this.#items.length
    this.#items.push(item)
    this.#rise(item)
  }

  /** Does nothing when the item is not in the heap. */
  remove(item: T): void {
    const index = item.heapIndex
    if (this.#items[index] !== item) return
    const last = this.#items.pop()!
    item.heapIndex = -1
    if (last === item) return
    this.#items[index] = last
    last.heapIndex = index
    this.update(last)
  }

  /** Restores the order after the item's key changed in either direction. */
  update(item: T): void {
    this.#rise(item)
    this.#sink(item)
  }

  #rise(item: T): void {
    let index = item.heapIndex
    while (index > 0) {
      const above = this.#items[(index - 1) >> 1]!
      if (!this.#before(item, above)) break
      this.#items[index] = above
      above.heapIndex = index
      index = (index - 1) >> 1
    }
    this.#items[index] = item
    item.heapIndex = index
  }

  #sink(item: T): void {
    let index = item.heapIndex
    const size = this.#items.length
    for (;;) {
      let below = 2 * index + 1
      if (below >= size) break
      if (below + 1 < size && this.#before(this.#items[below + 1]!, this.#items[below]!)) below++
      if (!this.#before(this.#items[below]!, item)) break
      this.#items[index] = this.#items[below]!
      this.#items[index]!.heapIndex = index
      index = below
    }
    this.#items[index] = item
    item.heapIndex = index
  }
}
