/** The options that every command with an engine shares, and what they mean to the engine process. */
import { type Command, Option } from 'commander'
import { cacheFormats, engineNumbers } from '../api/control/engine-flags.ts'
import type { DType } from '../base/dtype.ts'
import { UserError } from '../base/errors.ts'
import { pausesUntil, withPauses } from '../base/pauses.ts'
import { defaultSchedulerOptions } from '../serve/options.ts'
import type { EngineProcessClient } from '../serve/process/client.ts'
import { startEngine } from '../serve/process/client.ts'
import type { EngineSetup } from '../serve/process/protocol.ts'
import { findingDamage } from '../train/checkpoint.ts'
import { milliseconds, number, weightFormat, wholeNumber } from './options.ts'
import { bytes, compact, note, ProgressLine } from './terminal.ts'
import { loadTextModel, resolveModel } from './text-model.ts'

const tokenizerProbe =
  'The quick brown fox; 1234.5 + "déjà vu" = 안녕하세요? \n\tif (x <= 10) { return [x, y] }'

export interface EngineFlags {
  device?: string
  threads?: number
  quantize?: DType
  cacheTokens?: number
  kvType?: string
  context?: number
  trace?: string
  decisions?: string
  stepTokens?: number
  running?: number
  goalTpot?: number
  goalTtft?: number
  goalShed?: number
  speculate?: number
  draft?: string
  prefixCache?: boolean
  fastNumerics?: boolean
}

export function withEngineOptions(command: Command): Command {
  return command
    .option('--device <name>', 'auto, cpu, or a GPU such as cuda or vulkan')
    .option('--threads <n>', 'compute threads (default: every core)', wholeNumber(...engineNumbers.threads))
    .option(
      '--quantize <format>',
      'store weights in this format while loading, for example q8_0',
      weightFormat,
    )
    .option(
      '--cache-tokens <n>',
      'cache size in tokens over all requests (default: from free memory)',
      wholeNumber(...engineNumbers['cache-tokens']),
    )
    .addOption(
      new Option(
        '--kv-type <format>',
        'number format of cached keys and values (default: bf16 where the CPU multiplies it, by AMX or AVX-512 BF16, else f16)',
      ).choices(cacheFormats),
    )
    .option(
      '--context <n>',
      "longest context (default: the model's own)",
      wholeNumber(...engineNumbers.context),
    )
    .option('--trace <file>', 'write one NDJSON line per iteration: who was in it')
    .option(
      '--decisions <file>',
      'record the decisions of the scheduler for ropeway replay; the file holds the token ids of prompts and ' +
        'answers, so only you may read it',
    )
    .option(
      '--step-tokens <n>',
      'tokens that one iteration computes at most',
      wholeNumber(...engineNumbers['step-tokens']),
    )
    .option('--running <n>', 'requests in the batch at most', wholeNumber(...engineNumbers.running))
    .option(
      '--goal-tpot <time>',
      'keep the time between two tokens below this, for example 60ms',
      milliseconds,
    )
    .option('--goal-ttft <time>', 'keep the time to the first token below this, for example 2s', milliseconds)
    .option(
      '--goal-shed <factor>',
      'refuse at once (429) who would wait for more than this many times --goal-ttft (default: 4)',
      number(1, 1e6),
    )
    .option(
      '--speculate <n>',
      'guess up to n tokens by looking them up in the prompt',
      wholeNumber(...engineNumbers.speculate),
    )
    .option(
      '--draft <model>',
      'guess with this smaller model of the same tokenizer, up to --speculate tokens (4) ahead',
    )
    .option('--no-prefix-cache', 'compute every prompt from its first token')
    .option(
      '--fast-numerics',
      'without our kernels: be faster, and let the last bits depend on what else is in the batch',
    )
}

export function engineSetup(modelPath: string, flags: EngineFlags): EngineSetup {
  checkTogether(flags)
  const scheduler: Record<string, unknown> = {
    stepTokensMax: flags.stepTokens,
    runningMax: flags.running,
    goalTpotMs: flags.goalTpot,
    goalTtftMs: flags.goalTtft,
    goalShed: flags.goalShed,
    guessesMax: flags.speculate,
    prefixCache: flags.prefixCache,
  }
  if (flags.running === undefined && flags.stepTokens !== undefined)
    scheduler.runningMax = Math.min(defaultSchedulerOptions.runningMax, flags.stepTokens - 1)
  const setup: Record<string, unknown> = {
    modelPath,
    device: flags.device,
    threads: flags.threads,
    quantize: flags.quantize,
    cacheTokens: flags.cacheTokens,
    cacheDtype: flags.kvType?.toUpperCase(),
    contextMax: flags.context,
    traceFile: flags.trace,
    decisionFile: flags.decisions,
    draftPath: flags.draft === undefined ? undefined : draftPath(modelPath, flags.draft),
    fastNumerics: flags.fastNumerics,
    scheduler: defined(scheduler),
  }
  return defined(setup) as unknown as EngineSetup
}

/** Throws a UserError for options that cannot be kept beside one another. */
function checkTogether({ running, stepTokens, goalShed, goalTtft }: EngineFlags): void {
  const { stepTokensMax } = defaultSchedulerOptions
  if (running !== undefined && running >= (stepTokens ?? stepTokensMax)) {
    const given = stepTokens === undefined ? `${stepTokensMax}, the default` : stepTokens
    throw new UserError(
      `--running ${running} does not fit into --step-tokens ${given}: in an iteration each request of the batch computes a token, and one place is for a prompt.`,
      { failure: 'usage', fix: `Give --step-tokens ${running + 1} or more, or a smaller --running.` },
    )
  }
  if (goalShed !== undefined && goalTtft === undefined) {
    throw new UserError('--goal-shed is a multiple of --goal-ttft, which is not given.', {
      failure: 'usage',
      fix: 'Add for example --goal-ttft 2s.',
    })
  }
}

/** Refuses a draft model that cuts texts otherwise: its guesses would be about other tokens. */
function draftPath(modelPath: string, draft: string): string {
  const path = resolveModel(draft)
  const [own, other] = [modelPath, path].map((model) => loadTextModel(model).tokenizer.encode(tokenizerProbe))
  if (own!.join() === other!.join()) return path
  throw new UserError(`${draft} cuts texts into other tokens than the model: it cannot guess for it.`, {
    failure: 'usage',
    fix: 'Give a smaller model of the same family, with the same tokenizer.',
  })
}

function defined(record: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(record).filter(([, value]) => value !== undefined))
}

/** The file that the engine's child process runs: beside this one in dist, in this folder in the source tree. */
export function engineEntry(): URL {
  const suffix = import.meta.url.endsWith('.ts') ? '.ts' : '.js'
  return new URL(`./engine-process${suffix}`, import.meta.url)
}

interface LaunchOptions {
  quiet?: boolean
  signal?: AbortSignal
  /** Folders that it is going to load besides. */
  adapters?: readonly string[]
}

/**
 * Starts the engine with its loading shown, and says what was loaded. Meanwhile weights that were saved with their hashes
 * are held to them: throws a UserError where one is not what was saved.
 */
export async function launchEngine(
  modelPath: string,
  flags: EngineFlags,
  { quiet = false, signal, adapters = [] }: LaunchOptions = {},
): Promise<EngineProcessClient> {
  const progress = new ProgressLine()
  const setup = engineSetup(modelPath, flags)
  const isDamaged = new AbortController()
  const signals = signal === undefined ? [isDamaged.signal] : [isDamaged.signal, signal]
  const folders = [modelPath, ...(setup.draftPath === undefined ? [] : [setup.draftPath]), ...adapters]
  const checking = damageIn(folders, signal).then((damage) => {
    if (damage !== undefined) isDamaged.abort()
    return damage
  })
  const engine = await startEngine({
    setup,
    entry: engineEntry(),
    onLoading: (share) => {
      if (!quiet) progress.update(share, 'loading weights')
    },
    onNote: (text) => {
      if (!quiet) progress.note(text)
    },
    onCrash: (message) => note(message),
    signal: AbortSignal.any(signals),
  }).catch(async (error: unknown) => {
    progress.end()
    throw (await checking) ?? error
  })
  progress.end()
  const damage = await checking
  if (damage !== undefined) {
    await engine.close(0)
    throw damage
  }
  if (!quiet) {
    const { info } = engine
    const used = info.activeParameters
    const active = used === info.parameters ? '' : ` (${compact(used)} for each token)`
    note(
      `${info.architecture}, ${compact(info.parameters)} parameters${active}, ${bytes(info.weightBytes)} of weights; ` +
        `cache for ${compact(info.cacheTokens)} tokens (${bytes(info.cacheBytes)}); ` +
        `${info.device}, ${info.threads} ${info.threads === 1 ? 'thread' : 'threads'}, ${info.kernels} kernels`,
    )
    if (flags.context !== undefined && flags.context > info.contextMax)
      note(`--context ${flags.context} is beyond the model's own context of ${info.contextMax}, which holds.`)
  }
  return engine
}

/** The first of these folders whose weights are not what was saved there; undefined also where `signal` came first. */
export async function damageIn(
  folders: readonly string[],
  signal?: AbortSignal,
): Promise<UserError | undefined> {
  const stopped = new UserError('It was stopped.')
  const pause = pausesUntil(signal, () => stopped)
  try {
    for (const folder of folders) {
      const reason = await withPauses(findingDamage(folder), pause)
      if (reason === undefined) continue
      return new UserError(`${folder} is damaged: ${reason}.`, {
        failure: 'conflict',
        fix: 'Take another checkpoint of the run, in a folder beside it, or copy this one again.',
      })
    }
    return undefined
  } catch (error) {
    if (error === stopped) return undefined
    throw error
  }
}
