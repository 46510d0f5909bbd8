/** Experts of gpt-oss on their way into a folder: gate and up row by row in turns, each matrix turned round, as its files have them. */
import { assert } from '../base/assert.ts'
import { bytesOf } from '../base/dtype.ts'
import type { ExpertSizes } from './gpt-oss-source.ts'
import type { TensorToWrite } from './source.ts'

/** The tensors of a checkpoint from those of parameters; what is of no expert stays as it is. */
export function writtenByGptOss(parameters: readonly TensorToWrite[], sizes: ExpertSizes): TensorToWrite[] {
  const byName = new Map(parameters.map((tensor) => [tensor.name, tensor]))
  return parameters.flatMap((tensor): TensorToWrite[] => {
    const chooser = tensor.name.replace(/\.mlp\.gate\.(weight|bias)$/, '.mlp.router.$1')
    const parts = /^(.+\.mlp\.experts)\.(gate|up|down)_proj\.(weight|bias)$/.exec(tensor.name)
    if (parts === null) return [{ ...tensor, name: chooser }]
    const [, experts, product, kind] = parts as unknown as [string, string, string, string]
    // Written with gate.
    if (product === 'up') return []
    const members = product === 'down' ? ['down'] : ['gate', 'up']
    const tensors = members.map((member) => byName.get(`${experts}.${member}_proj.${kind}`))
    assert(!tensors.includes(undefined), `${experts} have all of their products`)
    const stored = `${experts}.${product === 'down' ? 'down' : 'gate_up'}_proj`
    return [
      kind === 'bias'
        ? biases(stored, tensors as TensorToWrite[])
        : turned(stored, tensors as TensorToWrite[], sizes),
    ]
  })
}

/** [E, outputs] of each, in turns. */
function biases(stored: string, tensors: readonly TensorToWrite[]): TensorToWrite {
  const { dtype, shape } = tensors[0]!
  const [experts, outputs] = shape as [number, number]
  return {
    name: `${stored}_bias`,
    dtype,
    shape: [experts, outputs * tensors.length],
    data: function* () {
      const all = tensors.map(wholeOf)
      yield inTurns(all, experts * outputs, bytesOf(dtype, 1))
    },
  }
}

/** [E * outputs, inputs] of each as [E, inputs, outputs in turns]. */
function turned(stored: string, tensors: readonly TensorToWrite[], { experts }: ExpertSizes): TensorToWrite {
  const { dtype, shape } = tensors[0]!
  const [rows, inputs] = shape as [number, number]
  const outputs = rows / experts
  const each = bytesOf(dtype, 1)
  assert(each === 2 || each === 4, 'checkpoints are written in floats of two or four bytes')
  const Numbers = each === 2 ? Uint16Array : Uint32Array
  const width = outputs * tensors.length
  return {
    name: stored,
    dtype,
    shape: [experts, inputs, width],
    data: function* () {
      const all = tensors.map((tensor) => {
        const bytes = wholeOf(tensor)
        return new Numbers(bytes.buffer)
      })
      const matrix = new Numbers(inputs * width)
      for (let expert = 0; expert < experts; expert++) {
        for (const [member, numbers] of all.entries())
          for (let output = 0; output < outputs; output++) {
            const row = (expert * outputs + output) * inputs
            const column = output * tensors.length + member
            for (let input = 0; input < inputs; input++)
              matrix[input * width + column] = numbers[row + input]!
          }
        yield new Uint8Array(matrix.buffer)
      }
    },
  }
}

/** `count` numbers of each, one of every tensor after the other. */
function inTurns(all: readonly Uint8Array[], count: number, each: number): Uint8Array {
  const out = new Uint8Array(count * each * all.length)
  for (const [member, bytes] of all.entries())
    for (let i = 0; i < count; i++)
      out.set(bytes.subarray(i * each, (i + 1) * each), (i * all.length + member) * each)
  return out
}

function wholeOf({ dtype, shape, data }: TensorToWrite): Uint8Array<ArrayBuffer> {
  const whole = new Uint8Array(
    bytesOf(
      dtype,
      shape.reduce((a, b) => a * b, 1),
    ),
  )
  let at = 0
  for (const piece of typeof data === 'function' ? data() : [data]) {
    whole.set(piece, at)
    at += piece.length
  }
  assert(at === whole.length, 'a tensor has all of its bytes')
  return whole
}
