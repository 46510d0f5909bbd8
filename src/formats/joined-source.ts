import { assert } from '../base/assert.ts'
import type { TensorInfo, TensorSource } from './source.ts'

/** Several files that are one model: every name is answered by the file that `owners` gives. Owns the files. */
export class JoinedSource implements TensorSource {
  readonly path: string
  readonly #parts: readonly TensorSource[]
  readonly #owners: ReadonlyMap<string, TensorSource>

  constructor(path: string, parts: readonly TensorSource[], owners: ReadonlyMap<string, TensorSource>) {
    this.path = path
    this.#parts = parts
    this.#owners = owners
  }

  names(): string[] {
    return [...this.#owners.keys()]
  }

  info(name: string): TensorInfo | undefined {
    return this.#owners.get(name)?.info(name)
  }

  read(name: string, into: Uint8Array, offset = 0): void {
    const owner = this.#owners.get(name)
    assert(owner !== undefined, `tensor ${name} is asked for only when ${this.path} has it`)
    owner.read(name, into, offset)
  }

  [Symbol.dispose](): void {
    closeAll(this.#parts)
  }
}

/** Closes every source, also when one of them refuses; the first refusal is thrown at the end. */
export function closeAll(sources: Iterable<Disposable>): void {
  const failures: unknown[] = []
  for (const source of sources) {
    try {
      source[Symbol.dispose]()
    } catch (error) {
      failures.push(error)
    }
  }
  if (failures.length > 0) throw failures[0]
}
