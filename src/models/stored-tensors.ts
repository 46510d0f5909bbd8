/** How a model's parameters lie in the files of its family: parameters of experts are many tensors there, or parts of one. */
import { assert } from '../base/assert.ts'
import type { StoredPart } from '../formats/stacked-source.ts'
import type { ParameterSpec } from './architecture.ts'

/** A tensor of a checkpoint, and the rows of parameters that it is made of, in order. */
export interface StoredTensor {
  name: string
  shape: readonly number[]
  pieces: readonly { spec: ParameterSpec; row: number; rows: number }[]
}

/** The tensors that a checkpoint of these parameters holds. GPT-2's products are stored [inputs, outputs], their rows as columns. */
export function storedTensors(specs: readonly ParameterSpec[]): StoredTensor[] {
  const tensors = new Map<
    string,
    StoredTensor & { pieces: { at: number; spec: ParameterSpec; row: number; rows: number }[] }
  >()
  for (const spec of specs) {
    let row = 0
    for (const part of spec.parts ?? [whole(spec)]) {
      const tensor = tensors.get(part.name) ?? { name: part.name, shape: part.shape, pieces: [] }
      tensors.set(part.name, tensor)
      tensor.pieces.push({ at: part.row, spec, row, rows: part.rows })
      row += part.rows
    }
    assert(row === rowsOf(spec.shape), `parts make up ${spec.name}`)
  }
  return [...tensors.values()].map(({ name, shape, pieces }) => {
    pieces.sort((a, b) => a.at - b.at)
    const rows = pieces.reduce((sum, piece) => sum + piece.rows, 0)
    const turned = pieces[0]!.spec.transposed === true
    assert(turned || rows === rowsOf(shape), `parameters make up ${name}`)
    return { name, shape, pieces }
  })
}

/** The parts of parameters that are not stored under their own names, by these; `stored`: the file's names of tensors. */
export function stacksOf(
  parameters: readonly Pick<ParameterSpec, 'name' | 'parts'>[],
  stored: (name: string) => string = (name) => name,
): Map<string, StoredPart[]> {
  return new Map(
    parameters.flatMap(({ name, parts }) =>
      parts === undefined ? [] : [[name, parts.map((part) => ({ ...part, name: stored(part.name) }))]],
    ),
  )
}

function whole({ name, shape, transposed }: ParameterSpec) {
  return { name, shape: transposed ? [...shape].reverse() : shape, row: 0, rows: rowsOf(shape) }
}

/** Rows of a shape; those of a vector are its elements. */
function rowsOf(shape: readonly number[]): number {
  return shape.length === 1 ? shape[0]! : shape.slice(0, -1).reduce((a, b) => a * b, 1)
}
