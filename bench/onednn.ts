/**
 * Our products in bf16 and int8 against oneDNN's, which PyTorch brings, both sides in turns:
 * `npx tsx bench/onednn.ts --python PATH [--pairs 5] [--out FILE]`. PyTorch comes from outside.
 */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process'
import { appendFileSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { UserError } from '../src/base/errors.ts'
import { Arena } from '../src/runtime/arena.ts'
import { Device } from '../src/runtime/device.ts'
import { Graph } from '../src/runtime/graph.ts'
import { KernelContext, type Kernels, kernelStatus, linearOps } from '../src/runtime/kernels.ts'
import { type Comparison, interleave, type Measured } from './harness/comparison.ts'
import { noise, quickestMs } from './harness/graphs.ts'
import { describeSetting } from './harness/machine.ts'

const weights = [
  { inputs: 2048, outputs: 6144 },
  { inputs: 896, outputs: 4864 },
] as const
const kinds = [
  { kind: 'bf16', packed: 'bf16' },
  { kind: 'int8', packed: 'q8' },
] as const
const rowCounts = [128, 256, 512] as const

interface Product {
  kind: string
  packed: 'bf16' | 'q8'
  rows: number
  inputs: number
  outputs: number
  threads: number
}

/** The product as a node of a ggml graph, with activations in F32 as everything around it has them. */
export class OwnProduct implements Disposable {
  readonly #arena = new Arena(2)
  readonly #context: KernelContext
  readonly #graph: Graph

  constructor(kernels: Kernels, device: Device, { packed, rows, inputs, outputs }: Product) {
    const bytes = kernels.packedBytes(packed, outputs, inputs)
    const weight = this.#arena.leaf('I8', [bytes])
    kernels.useLargePages(weight, this.#arena.allocate(device.bufferType).bytes)
    const into = new Uint8Array(bytes)
    const data = new Uint8Array(noise(outputs * inputs).buffer)
    kernels.packRows(packed, into, inputs, 0, { dtype: 'F32', data, rows: outputs })
    weight.write(into)
    this.#context = new KernelContext(kernels, device.threads)
    const params = { normed: 0, biased: 0, residual: 0, gated: 0, adapted: 0, epsilon: 0 }
    const { fn, userdata } = this.#context.call(linearOps[packed], params)
    this.#graph = new Graph(device)
    const x = this.#graph.input('F32', [rows, inputs], 'x')
    this.#graph.output(this.#graph.ops.custom('linear', fn, 'F32', [rows, outputs], [x, weight], userdata))
    this.#graph.allocate()
    x.write(noise(rows * inputs, 2))
    this.#graph.compute()
  }

  quickestMs(): number {
    return quickestMs(this.#graph, 5)
  }

  [Symbol.dispose](): void {
    this.#graph.dispose()
    this.#context.dispose()
    this.#arena.dispose()
  }
}

class Rival implements Disposable {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>

  constructor(python: string) {
    this.#child = spawn(python, [join(import.meta.dirname, 'onednn.py')], { stdio: 'pipe' })
    this.#child.stderr.pipe(process.stderr)
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }

  get pid(): number | undefined {
    return this.#child.pid
  }

  async quickestMs({ kind, rows, inputs, outputs, threads }: Product): Promise<number> {
    this.#child.stdin.write(`${kind} ${rows} ${inputs} ${outputs} ${threads}\n`)
    const { value, done } = await this.#lines.next()
    if (done) throw new UserError('PyTorch ended; what it said is above.')
    return Number(value)
  }

  [Symbol.dispose](): void {
    this.#child.stdin.end()
  }
}

/** The processors that this process may use; none where the system does not say. */
function processorsHere(): number[] {
  try {
    const list = /^Cpus_allowed_list:\s*(.*)$/m.exec(readFileSync('/proc/self/status', 'utf8'))?.[1] ?? ''
    return list.split(',').flatMap((range) => {
      const [first, last = first] = range.split('-').map(Number)
      return Array.from({ length: last! - first! + 1 }, (_, i) => first! + i)
    })
  } catch {
    return []
  }
}

/**
 * Both sides on the same processors from now on: of neighbours one may run at half of the other's pace for seconds. False
 * where there is no taskset.
 */
function hold(pids: readonly (number | undefined)[], processors: readonly number[]): boolean {
  if (processors.length === 0) return false
  return pids.every(
    (pid) => spawnSync('taskset', ['-a', '-p', '-c', processors.join(','), `${pid}`]).status === 0,
  )
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      python: { type: 'string' },
      pairs: { type: 'string', default: '5' },
      out: { type: 'string' },
    },
  })
  if (values.python === undefined) throw new UserError('--python names a Python with PyTorch 2.13.')
  const status = kernelStatus()
  if (status.kernels === undefined) throw new UserError(`There are no kernels: ${status.reason}.`)
  const say = (line: string) => process.stderr.write(`${line}\n`)
  const setting = describeSetting('none')
  const pairs = Number(values.pairs)
  using rival = new Rival(values.python)
  const comparisons: Comparison[] = []
  const processors = processorsHere()
  let held = true
  for (const threads of [1, 2]) {
    // It counts processors when it starts, and would spin less among fewer.
    if (threads === 1)
      await rival.quickestMs({ ...weights[0], kind: 'bf16', packed: 'bf16', rows: 128, threads: 2 })
    held = hold([rival.pid, process.pid], processors.slice(0, threads)) && held
    using device = new Device({ device: 'cpu', threads })
    device.setThreads(1)
    for (const { inputs, outputs } of weights)
      for (const { kind, packed } of kinds)
        for (const rows of rowCounts) {
          const product = { kind, packed, rows, inputs, outputs, threads }
          using own = new OwnProduct(status.kernels, device, product)
          await rival.quickestMs(product)
          const figure = `${kind}Rows${rows}Weights${inputs}x${outputs}Threads${threads}GigaflopsPerSecond`
          const speed = (ms: number): Measured => ({ [figure]: (2 * rows * inputs * outputs) / ms / 1e6 })
          comparisons.push(
            ...(await interleave(
              pairs,
              { name: 'ropeway', run: async () => speed(own.quickestMs()) },
              { name: 'oneDNN', run: async () => speed(await rival.quickestMs(product)) },
              say,
            )),
          )
        }
  }
  const record = {
    bench: 'onednn',
    size: 'large',
    parameters: { pairs },
    figures: {},
    comparisons,
    chosen: { kernels: status.kernels.instructionSet, processors: held ? 'the same for both sides' : 'any' },
    setting: setting.end({ compiler: status.compiler }),
  }
  const line = `${JSON.stringify(record)}\n`
  process.stdout.write(line)
  if (values.out !== undefined) appendFileSync(values.out, line)
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main()
