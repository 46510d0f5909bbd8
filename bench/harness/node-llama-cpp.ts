/**
 * node-llama-cpp as a rival: installed on demand into a cache folder outside the repository, never a
 * dependency, with install scripts off; its prebuilt CPU libraries are the very package that we stand on.
 */
import { type ChildProcess, fork, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { UserError } from '../../src/base/errors.ts'
import type { Contender } from './contender.ts'
import { benchCacheFolder } from './model.ts'
import type { RivalModule } from './node-llama-cpp-interface.ts'
import type { FromRival, ToRival } from './node-llama-cpp-process.ts'
import { type Delivery, outputTokensPerSecond, type Workload } from './workload.ts'

export const rivalVersion = '3.22.1'
const installLimitMs = 300_000

function rivalFolder(): string {
  return join(benchCacheFolder(), `node-llama-cpp-${rivalVersion}`)
}

export function rivalInstalled(): boolean {
  return existsSync(join(rivalFolder(), 'node_modules', 'node-llama-cpp', 'package.json'))
}

export function installRival(say: (line: string) => void): void {
  if (rivalInstalled()) return
  say(`installing node-llama-cpp ${rivalVersion} into the bench cache`)
  mkdirSync(rivalFolder(), { recursive: true })
  const flags = ['--ignore-scripts', '--omit=optional', '--no-audit', '--no-fund', '--loglevel=error']
  const packages = [`node-llama-cpp@${rivalVersion}`, `@node-llama-cpp/linux-x64@${rivalVersion}`]
  const { status, stderr } = spawnSync('npm', ['install', '--prefix', rivalFolder(), ...flags, ...packages], {
    cwd: rivalFolder(),
    encoding: 'utf8',
    timeout: installLimitMs,
  })
  if (status === 0) return
  throw new UserError(`node-llama-cpp ${rivalVersion} could not be installed: ${stderr.trim().slice(-300)}`, {
    failure: 'unreachable',
  })
}

/** The tokens that node-llama-cpp chooses greedily behind `prompt`, from the model in a GGUF file; in this process. */
export async function rivalTokens(
  modelPath: string,
  prompt: readonly number[],
  count: number,
): Promise<number[]> {
  installRival((line) => process.stderr.write(`${line}\n`))
  const entry = join(rivalFolder(), 'node_modules', 'node-llama-cpp', 'dist', 'index.js')
  const { getLlama } = (await import(pathToFileURL(entry).href)) as RivalModule
  const llama = await getLlama({ gpu: false, build: 'never', logLevel: 'error' })
  const model = await llama.loadModel({ modelPath })
  const context = await model.createContext({ contextSize: 512 })
  const chosen: number[] = []
  for await (const token of context.getSequence().evaluate(prompt, { temperature: 0 })) {
    chosen.push(token)
    if (chosen.length === count) break
  }
  await context.dispose()
  return chosen
}

export interface RivalOptions {
  modelPath: string
  threads: number
}

export class NodeLlamaCpp implements Contender {
  readonly name = 'node-llama-cpp'
  readonly versions = { 'node-llama-cpp': rivalVersion }
  readonly #child: ChildProcess
  #flashAttention = true

  private constructor(child: ChildProcess) {
    this.#child = child
  }

  static async start({ modelPath, threads }: RivalOptions): Promise<NodeLlamaCpp> {
    const child = fork(new URL('./node-llama-cpp-process.ts', import.meta.url), [], {
      execArgv: ['--import', import.meta.resolve('tsx')],
      serialization: 'advanced',
      stdio: ['ignore', 'ignore', 'inherit', 'ipc'],
    })
    const rival = new NodeLlamaCpp(child)
    await rival.#ask({ type: 'load', folder: rivalFolder(), modelPath, threads })
    return rival
  }

  /** Runs `workload` with flash attention on and off and keeps what is faster; says which. */
  async choose(workload: Workload): Promise<string> {
    const speeds: number[] = []
    for (const flashAttention of [true, false]) {
      this.#flashAttention = flashAttention
      speeds.push(outputTokensPerSecond(await this.run(workload)))
    }
    this.#flashAttention = speeds[0]! >= speeds[1]!
    return this.#flashAttention ? 'flash attention on' : 'flash attention off'
  }

  async run(workload: Workload): Promise<readonly Delivery[]> {
    const answer = await this.#ask({ type: 'run', workload, flashAttention: this.#flashAttention })
    if (answer.type !== 'ran') throw new UserError('node-llama-cpp answered out of turn.')
    return answer.deliveries
  }

  #ask(question: ToRival): Promise<FromRival> {
    return new Promise((resolve, reject) => {
      const settle = (answer: FromRival) => {
        this.#child.off('exit', died)
        if (answer.type === 'failed') reject(new UserError(`node-llama-cpp failed: ${answer.message}`))
        else resolve(answer)
      }
      const died = (code: number | null, signal: string | null) => {
        this.#child.off('message', settle)
        reject(new UserError(`node-llama-cpp ended (${signal ?? `exit code ${code}`}).`))
      }
      this.#child.once('message', settle)
      this.#child.once('exit', died)
      this.#child.send(question)
    })
  }

  async close(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return
    const exited = new Promise((resolve) => this.#child.once('exit', resolve))
    this.#child.disconnect()
    await exited
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}
