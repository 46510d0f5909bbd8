/** The C++ compiler of this machine: which it is, what it knows, and several of its runs side by side. */
import { spawnSync } from 'node:child_process'
import { rmSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { join } from 'node:path'
import { Worker } from 'node:worker_threads'

const compilers = ['g++', 'clang++', 'c++'] as const
/** One file on an old laptop beside other work takes minutes: this is for a compiler that hangs. */
export const compileLimitMs = 900_000

export interface Compiler {
  command: string
  /** What stands before all other arguments, as in `ccache g++` or `g++ -m64`. */
  leading: readonly string[]
  /** First line of `--version`. */
  version: string
  passedOver: string | undefined
}

/** The first C++ compiler that answers, $CXX before the usual names: as one path, or as a command with arguments. */
export function findCompiler(): Compiler | undefined {
  const wanted = process.env.CXX?.trim() ?? ''
  const [first = '', ...words] = wanted.split(/\s+/)
  const usual = compilers.map((command) => ({
    command,
    leading: [],
    passedOver: wanted === '' ? undefined : wanted,
  }))
  const asked = [
    { command: wanted, leading: [], passedOver: undefined },
    { command: first, leading: words, passedOver: undefined },
  ].filter(({ command }) => command !== '')
  for (const way of [...asked, ...usual]) {
    const result = spawnSync(way.command, [...way.leading, '--version'], {
      encoding: 'utf8',
      timeout: 10_000,
    })
    const version = result.stdout?.split('\n')[0]?.trim()
    if (result.status === 0 && version) return { ...way, version }
  }
  return undefined
}

/** The youngest instruction that each set's code holds: assemblers learn them apart from compilers. */
const instructions = `
#if defined(__AMX_INT8__)
asm("tdpbssd %tmm0, %tmm1, %tmm2");
#elif defined(__AVX512VNNI__)
asm("vpdpbusd %zmm0, %zmm1, %zmm2");
#elif defined(__AVXVNNI__)
asm("{vex} vpdpbusd %ymm0, %ymm1, %ymm2");
#elif defined(__AVX2__)
asm("vpmaddubsw %ymm0, %ymm1, %ymm2");
#endif
`

/** Old compilers and assemblers do not know young instructions; the other units serve without them. */
export function knowsInstructions(compiler: Compiler, flags: readonly string[], folder: string): boolean {
  if (!flags.some((flag) => flag.startsWith('-m'))) return true
  const [program, object] = [join(folder, 'probe.cpp'), join(folder, 'probe.o')]
  writeFileSync(program, instructions)
  const probe = [...compiler.leading, ...flags, '-c', program, '-o', object]
  const { status } = spawnSync(compiler.command, probe, { timeout: 30_000 })
  rmSync(program)
  rmSync(object, { force: true })
  return status === 0
}

/** Runs on a thread of its own, because the caller waits without an event loop. */
const spawner = `
const { workerData } = require('node:worker_threads')
const { execFile } = require('node:child_process')
const { command, lists, atOnce, timeout, shared } = workerData
const [state, text] = [new Int32Array(shared, 0, 2), new Uint8Array(shared, 8)]
const finish = (failure) => {
  if (Atomics.compareExchange(state, 0, 0, 1) !== 0) return
  state[1] = new TextEncoder().encodeInto(failure, text).written
  Atomics.store(state, 0, 2)
  Atomics.notify(state, 0)
}
let [next, left] = [0, lists.length]
const start = () => {
  if (next === lists.length) return
  execFile(command, lists[next++], { timeout, maxBuffer: 1 << 24 }, (error, _, stderr) => {
    if (error) return finish(stderr.trim() || (error.killed ? 'it took too long' : \`it ended with \${error.signal ?? error.code} and said nothing\`))
    if (--left === 0) finish('')
    else start()
  })
}
for (let i = 0; i < atOnce; i++) start()`

/** Runs the compiler once per list, as many at once as there are processors; the text of the first failure, or undefined. */
export function runSideBySide(compiler: Compiler, lists: readonly (readonly string[])[]): string | undefined {
  const shared = new SharedArrayBuffer(8 + 65536)
  const state = new Int32Array(shared, 0, 2)
  const { command, leading } = compiler
  const workerData = {
    command,
    lists: lists.map((list) => [...leading, ...list]),
    atOnce: availableParallelism(),
    timeout: compileLimitMs,
    shared,
  }
  // No loaders in there: they might wait for this thread.
  const worker = new Worker(spawner, { eval: true, workerData, execArgv: [] })
  // Two states: 1 while the failure is being written, 2 when it can be read.
  const deadlineMs = performance.now() + compileLimitMs + 5000
  while (Atomics.load(state, 0) !== 2 && performance.now() < deadlineMs) {
    Atomics.wait(state, 0, Atomics.load(state, 0), 1000)
  }
  const done = Atomics.load(state, 0) === 2
  const text = done
    ? new TextDecoder().decode(new Uint8Array(shared, 8).slice(0, state[1]))
    : 'it took too long'
  worker.unref()
  if (text === '') return undefined
  return `${compiler.command} failed: ${text.split('\n').slice(0, 4).join(' | ')}`
}
