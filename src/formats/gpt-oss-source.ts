/**
 * The experts of a gpt-oss folder as rows [outputs, inputs] of gate, up and down. Its files hold gate and up row by row in turns
 * (their even rows are gate's), and each matrix either turned round, [inputs, outputs], or in MXFP4: codes in `_blocks`, powers of
 * two in `_scales` (OCP Microscaling Formats 1.0). What ggml calls MXFP4 has the same numbers in another order.
 *
 * E experts, F feed-forward of one, W width.
 */
import { assert } from '../base/assert.ts'
import { bytesOf, type DType } from '../base/dtype.ts'
import { UserError } from '../base/errors.ts'
import type { TensorInfo, TensorSource } from './source.ts'

export interface ExpertSizes {
  /** E */
  experts: number
  /** F */
  feedForward: number
  /** W */
  width: number
}

/** Where rows of a product lie: row r of an expert is row `first` + r `step` of the stored matrix. */
interface Place {
  /** The file's name, without what stands behind it. */
  stored: string
  first: number
  step: number
  /** Of one expert: rows, and numbers of one. */
  outputs: number
  inputs: number
}

/** Rows of a product, made one by one. */
interface Rows {
  info: TensorInfo
  /** Writes rows [row, row + count) of all experts below one another. */
  read(row: number, count: number, into: Uint8Array): void
}

/** Of `source`, with the experts under the names of parameters, and whatever else it has. */
export function expertsOfGptOss(source: TensorSource, sizes: ExpertSizes): TensorSource {
  const known = new Map<string, Rows | undefined>()
  const rowsOf = (name: string) => {
    if (!known.has(name)) known.set(name, rowsUnder(source, name, sizes))
    return known.get(name)
  }
  return {
    path: source.path,
    names: () => source.names(),
    info: (name) => rowsOf(name)?.info ?? source.info(routerName(name)),
    read: (name, into, offset = 0) => {
      const rows = rowsOf(name)
      if (rows === undefined) source.read(routerName(name), into, offset)
      else readPart(rows, into, offset)
    },
    [Symbol.dispose]: () => source[Symbol.dispose](),
  }
}

/** What chooses experts is `mlp.gate` to us. */
function routerName(name: string): string {
  return name.replace(/\.mlp\.gate\.(weight|bias)$/, '.mlp.router.$1')
}

function placeOf(layer: string, product: string, { feedForward, width }: ExpertSizes): Place {
  const experts = `${layer}.mlp.experts`
  if (product === 'down')
    return { stored: `${experts}.down_proj`, first: 0, step: 1, outputs: width, inputs: feedForward }
  const first = product === 'gate' ? 0 : 1
  return { stored: `${experts}.gate_up_proj`, first, step: 2, outputs: feedForward, inputs: width }
}

function rowsUnder(source: TensorSource, name: string, sizes: ExpertSizes): Rows | undefined {
  const parts = /^(.+)\.mlp\.experts\.(gate|up|down)_proj\.(weight|bias)$/.exec(name)
  if (parts === null) return undefined
  const [, layer, product, kind] = parts as unknown as [string, string, string, string]
  const place = placeOf(layer, product, sizes)
  const stored = place.outputs * place.step
  if (kind === 'bias')
    return biases(source, name, place, shaped(source, `${place.stored}_bias`, [sizes.experts, stored]))
  if (source.info(`${place.stored}_blocks`) !== undefined)
    return microscaled(source, name, place, sizes.experts)
  return turned(source, name, place, shaped(source, place.stored, [sizes.experts, place.inputs, stored]))
}

/** Throws a UserError unless the file has that tensor, in that shape. */
function shaped(source: TensorSource, name: string, shape: readonly number[], dtype?: DType): TensorInfo {
  const info = source.info(name)
  if (info === undefined)
    throw new UserError(`${source.path} has no tensor ${name}, which gpt_oss needs.`, {
      fix: 'The download may be incomplete, or config.json belongs to another model.',
    })
  if (info.shape.join() !== shape.join())
    throw new UserError(
      `${source.path}: tensor ${name} has shape [${info.shape}], config.json implies [${shape}].`,
    )
  if (dtype !== undefined && info.dtype !== dtype)
    throw new UserError(`${source.path}: tensor ${name} is in ${info.dtype}, not in ${dtype}.`, {
      fix: 'Use the files as they were published.',
    })
  return info
}

function biases(source: TensorSource, name: string, { outputs, first, step }: Place, info: TensorInfo): Rows {
  const bytes = bytesOf(info.dtype, 1)
  const stored = new Uint8Array(bytes * outputs * step)
  return {
    info: { name, dtype: info.dtype, shape: [info.shape[0]!, outputs], bytes: info.bytes / step },
    read: (row, count, into) => {
      for (let i = 0; i < count; i++) {
        source.read(info.name, stored, (row + i) * stored.length)
        for (let o = 0; o < outputs; o++) {
          const at = (first + o * step) * bytes
          into.set(stored.subarray(at, at + bytes), (i * outputs + o) * bytes)
        }
      }
    },
  }
}

/** Stored [E, inputs, outputs]: an expert is turned round as a whole, and kept until another one is asked for. */
function turned(
  source: TensorSource,
  name: string,
  { outputs, inputs, first, step }: Place,
  info: TensorInfo,
): Rows {
  const { dtype } = info
  const each = bytesOf(dtype, 1)
  if (each !== 2 && each !== 4)
    throw new UserError(`${source.path}: tensor ${info.name} is in ${dtype}.`, {
      fix: 'Use a model whose experts are in BF16, F16, F32 or MXFP4.',
    })
  const Numbers = each === 2 ? Uint16Array : Uint32Array
  let held = -1
  let matrix = new Numbers(0)
  const hold = (expert: number) => {
    if (held === expert) return
    const stored = new Numbers(inputs * outputs * step)
    source.read(info.name, new Uint8Array(stored.buffer), expert * stored.byteLength)
    if (matrix.length === 0) matrix = new Numbers(inputs * outputs)
    turn(stored, matrix, { outputs, inputs, first, step })
    held = expert
  }
  return {
    info: { name, dtype, shape: [info.shape[0]! * outputs, inputs], bytes: info.bytes / step },
    read: (row, count, into) => {
      for (let i = 0; i < count; i++) {
        hold(Math.floor((row + i) / outputs))
        const at = ((row + i) % outputs) * inputs * each
        into.set(new Uint8Array(matrix.buffer, at, inputs * each), i * inputs * each)
      }
      // What the last expert leaves is not held for as long as the model is open.
      if (row + count === info.shape[0]! * outputs) [matrix, held] = [new Numbers(0), -1]
    },
  }
}

/** Square by square, so that what is read and what is written stay in the caches. */
function turn(
  from: Uint16Array | Uint32Array,
  into: Uint16Array | Uint32Array,
  { outputs, inputs, first, step }: Omit<Place, 'stored'>,
): void {
  const side = 32
  const width = outputs * step
  for (let o = 0; o < outputs; o += side) {
    const end = Math.min(outputs, o + side)
    for (let i = 0; i < inputs; i += side) {
      const last = Math.min(inputs, i + side)
      for (let output = o; output < end; output++)
        for (let input = i; input < last; input++)
          into[output * inputs + input] = from[input * width + first + output * step]!
    }
  }
}

const blockInputs = 32
/** Codes of a block, and with the power of two in front. */
const [codeBytes, blockBytes] = [16, 17]
/** Stored rows that are read together. */
const rowsAtOnce = 128

function microscaled(
  source: TensorSource,
  name: string,
  { stored, outputs, inputs, first, step }: Place,
  experts: number,
): Rows {
  if (inputs % blockInputs !== 0)
    throw new UserError(
      `${source.path}: ${stored} has rows of ${inputs}, which are no whole blocks of MXFP4.`,
    )
  const perRow = inputs / blockInputs
  const shape = [experts, outputs * step, perRow]
  const codes = shaped(source, `${stored}_blocks`, [...shape, codeBytes], 'U8')
  const scales = shaped(source, `${stored}_scales`, shape, 'U8')
  const all = experts * outputs
  const some = {
    codes: new Uint8Array(rowsAtOnce * perRow * codeBytes),
    scales: new Uint8Array(rowsAtOnce * perRow),
  }
  return {
    info: { name, dtype: 'MXFP4', shape: [all, inputs], bytes: bytesOf('MXFP4', all * inputs) },
    read: (row, count, into) => {
      const together = Math.floor(rowsAtOnce / step)
      for (let done = 0; done < count; done += together) {
        const rows = Math.min(together, count - done)
        // Of whole experts below one another, so that a row's place does not depend on its expert.
        const from = (row + done) * step * perRow
        const blocks = rows * step * perRow
        source.read(codes.name, some.codes.subarray(0, blocks * codeBytes), from * codeBytes)
        source.read(scales.name, some.scales.subarray(0, blocks), from)
        for (let i = 0; i < rows; i++)
          for (let block = 0; block < perRow; block++) {
            const at = (first + i * step) * perRow + block
            const to = ((done + i) * perRow + block) * blockBytes
            into[to] = some.scales[at]!
            asGgml(some.codes, at * codeBytes, into, to + 1)
          }
      }
    },
  }
}

/** Stored, a byte holds neighbours; in ggml's order numbers 16 apart. */
function asGgml(from: Uint8Array, at: number, into: Uint8Array, to: number): void {
  for (let i = 0; i < codeBytes / 2; i++) {
    const [low, high] = [from[at + i]!, from[at + codeBytes / 2 + i]!]
    into[to + 2 * i] = (low & 15) | ((high & 15) << 4)
    into[to + 2 * i + 1] = (low >> 4) | (high & 240)
  }
}

/** Bytes [offset, offset + into.length), which may begin and end inside of rows. */
function readPart({ info, read }: Rows, into: Uint8Array, offset: number): void {
  const rows = info.shape[0]!
  const rowBytes = info.bytes / rows
  const end = offset + into.length
  assert(end <= info.bytes, `a read stays inside tensor ${info.name}`)
  const [first, last] = [Math.floor(offset / rowBytes), Math.ceil(end / rowBytes)]
  if (offset === first * rowBytes && end === last * rowBytes) {
    read(first, last - first, into)
    return
  }
  const row = new Uint8Array(rowBytes)
  for (let r = first; r < last; r++) {
    read(r, 1, row)
    const [from, to] = [Math.max(offset, r * rowBytes), Math.min(end, (r + 1) * rowBytes)]
    into.set(row.subarray(from - r * rowBytes, to - r * rowBytes), from - offset)
  }
}
