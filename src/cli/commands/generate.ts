import { readFileSync } from 'node:fs'
import type { Command } from 'commander'
import { UserError } from '../../base/errors.ts'
import { readTextFile } from '../../base/files.ts'
import { fillInPrompt, fillInTokens } from '../../tokenizer/fill-in.ts'
import { beginningOf, encodeInside, plainText } from '../../tokenizer/gap.ts'
import type { Tokenizer } from '../../tokenizer/tokenizer.ts'
import { type Answered, askDeployed, type Deployed, deployedAs } from '../deployed.ts'
import { type EngineFlags, launchEngine, withEngineOptions } from '../engine-options.ts'
import { type SamplingFlags, withSamplingOptions } from '../sampling-options.ts'
import { shutdownSignal } from '../shutdown.ts'
import { speak } from '../speak.ts'
import { dim, note } from '../terminal.ts'
import { findModel, loadTextModel, resolveModel } from '../text-model.ts'

interface GenerateFlags extends EngineFlags, SamplingFlags {
  prompt?: string
  suffix?: string
  file?: string
  json?: boolean
  quiet?: boolean
}

export function generateCommand(program: Command): void {
  const command = program
    .command('generate')
    .description('continue a text in the terminal')
    .argument('<model>', 'folder, .gguf file, a name in the models folder, or a deployment')
    .option('-p, --prompt <text>', 'the text to continue; standard input when absent')
    .option(
      '--suffix <text>',
      'write what stands between the text and this one, by a model that was trained for it',
    )
    .option('-f, --file <path>', 'read the text to continue from a file')
    .option('--json', 'print one JSON object with text, counts and times')
    .option('-q, --quiet', 'print nothing but the text')
  withEngineOptions(withSamplingOptions(command)).action(async (given: string, flags: GenerateFlags) => {
    const deployed = findModel(given) === undefined ? await deployedAs(given) : undefined
    if (deployed !== undefined) return await generateThere(deployed, flags)
    const model = loadTextModel(resolveModel(given))
    const text = promptText(flags)
    const { tokenizer } = model
    const { suffix } = flags
    const gap = suffix === undefined ? undefined : gapOf(text, suffix, tokenizer)
    const prompt = gap?.prompt ?? tokenizer.encode(text)
    if (prompt.length === 0)
      throw new UserError('The prompt is empty.', { failure: 'usage', fix: 'Give -p TEXT.' })
    const stop = shutdownSignal()
    const quiet = flags.quiet === true || flags.json === true
    const engine = await launchEngine(model.path, flags, { quiet, signal: stop.signal })
    try {
      const write = (piece: string) => {
        if (flags.json !== true) process.stdout.write(piece)
      }
      if (!quiet) note('')
      if (flags.quiet !== true) write(text)
      const spoken = await speak(engine, model, prompt, flags, write, stop.signal, gap?.ends)
      if (flags.quiet !== true) write(suffix ?? '')
      const { finish, ...rest } = spoken
      report({ ...finish, ...rest }, flags, quiet)
      if (stop.signal.aborted) process.exitCode = 130
    } finally {
      await engine.close(0)
      stop.dispose()
    }
  })
}

/** The tokens that ask for what stands between `before` and `behind`, and those that end it. */
function gapOf(
  before: string,
  behind: string,
  tokenizer: Tokenizer,
): { prompt: number[]; ends: readonly number[] } {
  const { fillIn } = tokenizer
  if (fillIn === undefined) {
    throw new UserError(
      'This model does not fill in before a suffix: its tokenizer has no tokens that mark a gap.',
      {
        failure: 'usage',
        fix: 'Leave --suffix out, or take a model that was trained to fill in, as Qwen2.5-Coder or StarCoder.',
      },
    )
  }
  const options = plainText(fillIn)
  const [left, right] = [tokenizer.encodeTyped(before, options), encodeInside(tokenizer, behind, options)]
  const prompt = [...beginningOf(tokenizer), ...fillInPrompt(fillIn, [...left], [...right])]
  return { prompt, ends: [...fillInTokens(fillIn)] }
}

/** By the service; engine flags are the deployment's there. */
async function generateThere(deployed: Deployed, flags: GenerateFlags): Promise<void> {
  const prompt = promptText(flags)
  const quiet = flags.quiet === true || flags.json === true
  const stop = shutdownSignal()
  const write = (piece: string) => {
    if (flags.json !== true) process.stdout.write(piece)
  }
  if (flags.quiet !== true) write(prompt)
  const { suffix } = flags
  const body = { prompt, ...(suffix !== undefined && { suffix }) }
  try {
    const answered = await askDeployed(deployed, '/completions', body, flags, write, stop.signal)
    if (flags.quiet !== true) write(suffix ?? '')
    report(answered, flags, quiet)
  } catch (error) {
    if (!stop.signal.aborted) throw error
    process.stdout.write('\n')
    process.exitCode = 130
  } finally {
    stop.dispose()
  }
}

function promptText(flags: GenerateFlags): string {
  if (flags.prompt !== undefined) return flags.prompt
  if (flags.file !== undefined) return readTextFile(flags.file)
  if (process.stdin.isTTY)
    throw new UserError('There is no text to continue.', { failure: 'usage', fix: 'Give -p TEXT.' })
  return readFileSync(0, 'utf8')
}

function report(answered: Answered, flags: GenerateFlags, quiet: boolean): void {
  const { reason, promptTokens, generatedTokens, cachedTokens, firstMs, restMs, text } = answered
  const perSecond = generatedTokens > 1 ? ((generatedTokens - 1) * 1000) / restMs : 0
  if (flags.json === true) {
    const counts = { promptTokens, cachedTokens, generatedTokens }
    const times = { firstTokenMs: firstMs, tokensPerSecond: perSecond }
    process.stdout.write(`${JSON.stringify({ text, finish: reason, ...counts, ...times })}\n`)
    return
  }
  process.stdout.write('\n')
  if (quiet) return
  note(
    dim(
      `\n${promptTokens} prompt tokens, first token after ${firstMs.toFixed(0)} ms; ` +
        `${generatedTokens} tokens at ${perSecond.toFixed(1)} tokens/s (${reason})`,
    ),
  )
}
