import { createHash } from 'node:crypto'
import { closeSync, fsyncSync, openSync, writeSync } from 'node:fs'

const heldBytesMax = 1 << 20

/** A file that is written from its beginning to its end, in large steps, and hashed on the way. */
export class HashedFile implements Disposable {
  readonly #file: number
  readonly #hash = createHash('sha256')
  readonly #held = Buffer.allocUnsafe(heldBytesMax)
  #heldBytes = 0
  #closed = false

  constructor(path: string) {
    this.#file = openSync(path, 'w')
  }

  write(bytes: Uint8Array): void {
    if (this.#heldBytes + bytes.length > heldBytesMax) this.#flush()
    if (bytes.length > heldBytesMax) this.#put(bytes)
    else {
      this.#held.set(bytes, this.#heldBytes)
      this.#heldBytes += bytes.length
    }
  }

  /** SHA-256 of what was written, which is on disk now. */
  finish(): string {
    this.#flush()
    fsyncSync(this.#file)
    this[Symbol.dispose]()
    return this.#hash.digest('hex')
  }

  #flush(): void {
    this.#put(this.#held.subarray(0, this.#heldBytes))
    this.#heldBytes = 0
  }

  #put(bytes: Uint8Array): void {
    for (let done = 0; done < bytes.length; ) done += writeSync(this.#file, bytes, done)
    this.#hash.update(bytes)
  }

  [Symbol.dispose](): void {
    if (!this.#closed) closeSync(this.#file)
    this.#closed = true
  }
}
