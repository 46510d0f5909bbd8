import { assert } from '../base/assert.ts'
import { bytesOf, type DType } from '../base/dtype.ts'
import { UserError } from '../base/errors.ts'
import type { TensorInfo, TensorSource } from './source.ts'

/** Rows of a tensor in a file, counted over all of its dimensions but the last. */
export interface StoredPart {
  /** The file's name of the tensor. */
  readonly name: string
  /** The whole tensor's. */
  readonly shape: readonly number[]
  readonly row: number
  readonly rows: number
}

/** Tensors [rows, width] that are made of rows of a file's own, one part below the other; all in one number format. */
export class StackedTensors {
  readonly #source: TensorSource
  readonly #stacks: ReadonlyMap<string, readonly StoredPart[]>
  readonly #known = new Map<string, TensorInfo>()

  /** `stacks`: the parts of each such tensor, by its name. */
  constructor(source: TensorSource, stacks: ReadonlyMap<string, readonly StoredPart[]>) {
    this.#source = source
    this.#stacks = stacks
  }

  has(name: string): boolean {
    return this.#stacks.has(name)
  }

  /** Throws a UserError that names the tensor of a part that is missing, misshapen or in another format than the first. */
  info(name: string): TensorInfo {
    const known = this.#known.get(name)
    if (known !== undefined) return known
    const parts = this.#partsOf(name)
    const formats = new Set(parts.map((part) => this.#formatOf(part, name)))
    const rows = parts.reduce((sum, part) => sum + part.rows, 0)
    const width = parts[0]!.shape.at(-1)!
    const [dtype, other] = [...formats] as [DType, DType | undefined]
    if (other !== undefined) {
      const odd = parts.find((part) => this.#source.info(part.name)!.dtype === other)!.name
      throw new UserError(
        `${this.#source.path}: tensor ${odd} is in ${other}, ${parts[0]!.name} in ${dtype}.`,
        {
          fix: 'Convert all experts of a layer to one number format.',
        },
      )
    }
    const info = { name, dtype, shape: [rows, width], bytes: bytesOf(dtype, rows * width) }
    this.#known.set(name, info)
    return info
  }

  /** Bytes [offset, offset + into.length) of what lies in the parts. */
  read(name: string, into: Uint8Array, offset = 0): void {
    const { dtype, shape } = this.info(name)
    const rowBytes = bytesOf(dtype, shape[1]!)
    const end = offset + into.length
    let at = 0
    for (const part of this.#partsOf(name)) {
      const [from, to] = [Math.max(at, offset), Math.min(at + part.rows * rowBytes, end)]
      if (from < to) {
        const place = part.row * rowBytes + from - at
        this.#source.read(part.name, into.subarray(from - offset, to - offset), place)
      }
      at += part.rows * rowBytes
    }
    assert(end <= at, `a read stays inside tensor ${name}`)
  }

  #partsOf(name: string): readonly StoredPart[] {
    const parts = this.#stacks.get(name)
    assert(parts, `${name} is made of parts`)
    return parts
  }

  #formatOf(part: StoredPart, name: string): DType {
    const { path } = this.#source
    const info = this.#source.info(part.name)
    if (info === undefined)
      throw new UserError(`${path} has no tensor ${part.name}, a part of ${name}.`, {
        fix: 'The download may be incomplete, or config.json belongs to another model.',
      })
    if (info.shape.join() !== part.shape.join())
      throw new UserError(
        `${path}: tensor ${part.name} has shape [${info.shape}], config.json implies [${part.shape}].`,
      )
    return info.dtype
  }
}
