/**
 * A copy of everything that training changes, so that it can be written while training goes on. Its memory is kept
 * from one copy to the next.
 */
import type { TensorToWrite } from '../formats/source.ts'
import { storedTensors } from '../models/stored-tensors.ts'
import type { Parameter, Parameters, SavedForm } from './parameters.ts'

interface Copy {
  parameter: Parameter
  weight: Float32Array
  mean: Float32Array
  square: Float32Array
}

export class Snapshot {
  readonly saved: SavedForm
  readonly #copies: readonly Copy[]
  readonly #parameters: Parameters
  readonly #parts: 'weights' | 'weights and moments'
  readonly #isWhole: boolean

  /** One that is not whole has room for the moments of this process only, to be sent to another. */
  constructor(
    parameters: Parameters,
    parts: 'weights' | 'weights and moments' = 'weights and moments',
    isWhole = true,
  ) {
    this.saved = parameters.saved
    this.#parameters = parameters
    this.#parts = parts
    this.#isWhole = isWhole
    this.#copies = parameters.all.map((parameter, index) => {
      const { size } = parameter.weight
      const hasMoments = parts === 'weights and moments' && (isWhole || parameters.ownsMoments(index))
      return {
        parameter,
        weight: new Float32Array(isWhole ? size : 0),
        mean: new Float32Array(hasMoments ? size : 0),
        square: new Float32Array(hasMoments ? size : 0),
      }
    })
  }

  /** Copies what is there now; of moments, those that this process has. */
  take(): void {
    for (const [index, { parameter, weight, mean, square }] of this.#copies.entries()) {
      if (this.#isWhole) parameter.weight.read(weight)
      if (this.#parts === 'weights' || !this.#parameters.ownsMoments(index)) continue
      parameter.mean.read(mean)
      parameter.square.read(square)
    }
  }

  /** Both moments of one parameter, to be read or filled. */
  momentsOf(index: number): readonly [Float32Array, Float32Array] {
    const { mean, square } = this.#copies[index]!
    return [mean, square]
  }

  /** Weights as the checkpoint format has them: GPT-2's products are stored transposed, experts as their family stores them. */
  weights(): TensorToWrite[] {
    const weights = new Map(this.#copies.map(({ parameter: { spec }, weight }) => [spec, weight]))
    const { architecture, config } = this.#parameters.definition
    const tensors = storedTensors([...weights.keys()]).map(
      ({ name, shape, pieces: parts }): TensorToWrite => {
        const data = function* () {
          for (const { spec, row, rows } of parts) {
            const weight = weights.get(spec)!
            const width = weight.length / spec.shape[0]!
            if (spec.transposed) yield* turnedPieces(weight, spec.shape[0]!, width)
            else yield* pieces(weight.subarray(row * width, (row + rows) * width))
          }
        }
        return { name, dtype: 'F32', shape, data }
      },
    )
    return architecture.written?.(tensors, config) ?? tensors
  }

  /** AdamW's moments: `mean.NAME` and `square.NAME`. */
  moments(): TensorToWrite[] {
    return this.#copies.flatMap(({ parameter: { spec }, mean, square }) => [
      plain(`mean.${spec.name}`, spec.shape, mean),
      plain(`square.${spec.name}`, spec.shape, square),
    ])
  }
}

/** Small, so that hashing one between two steps keeps nobody waiting. */
const pieceBytes = 1 << 20

function plain(name: string, shape: readonly number[], values: Float32Array): TensorToWrite {
  return { name, dtype: 'F32', shape, data: () => pieces(values) }
}

function* pieces(values: Float32Array): Generator<Uint8Array> {
  const bytes = bytesOf(values)
  for (let offset = 0; offset < bytes.length; offset += pieceBytes)
    yield bytes.subarray(offset, offset + pieceBytes)
}

/** [rows, columns] as [columns, rows], a few columns at a time. */
function* turnedPieces(values: Float32Array, rows: number, columns: number): Generator<Uint8Array> {
  const columnsAtOnce = Math.max(1, Math.floor(pieceBytes / 4 / rows))
  for (let from = 0; from < columns; from += columnsAtOnce) {
    const to = Math.min(columns, from + columnsAtOnce)
    const piece = new Float32Array((to - from) * rows)
    for (let row = 0; row < rows; row++)
      for (let column = from; column < to; column++)
        piece[(column - from) * rows + row] = values[row * columns + column]!
    yield bytesOf(piece)
  }
}

function bytesOf(values: Float32Array): Uint8Array {
  return new Uint8Array(values.buffer, values.byteOffset, values.byteLength)
}
