/** One generation in the terminal, shared by `generate` and `chat`. */
import { randomUUID } from 'node:crypto'
import { UserError } from '../base/errors.ts'
import { HarmonyReader, harmonyTokens } from '../openai/harmony.ts'
import { ShownStops } from '../openai/shown-stops.ts'
import { Transcript } from '../openai/transcript.ts'
import type { EngineClient } from '../serve/messages.ts'
import type { Finish } from '../serve/request.ts'
import { type SamplingFlags, samplingOf } from './sampling-options.ts'
import type { TextModel } from './text-model.ts'

export interface Spoken {
  text: string
  finish: Finish
  /** Milliseconds to the first token and from there to the last. */
  firstMs: number
  restMs: number
}

/** Streams the continuation of `prompt` through `write`; `signal` cancels it, `ends` are tokens that end it beside the model's own, and an answer in channels is shown as it is read. */
export async function speak(
  engine: EngineClient,
  model: TextModel,
  prompt: readonly number[],
  flags: SamplingFlags,
  write: (text: string) => void,
  signal?: AbortSignal,
  ends: readonly number[] = [],
  inChannels = false,
): Promise<Spoken> {
  const { tokenizer } = model
  const room = engine.info.contextMax - prompt.length
  if (room < 1) {
    throw new UserError(
      `The prompt has ${prompt.length} tokens; the context of this model holds ${engine.info.contextMax} with the answer.`,
      { failure: 'usage', fix: 'Shorten the prompt.' },
    )
  }
  const reader = inChannels ? new HarmonyReader(false) : undefined
  const kept = reader && harmonyTokens(tokenizer)
  const stops = reader ? new ShownStops(flags.stop ?? [], new HarmonyReader(false)) : (flags.stop ?? [])
  const transcript = new Transcript(tokenizer, stops, flags.minTokens ?? 0, kept)
  transcript.continueBehind(prompt)
  const id = randomUUID()
  const startedMs = performance.now()
  let firstMs = 0
  let text = ''
  const show = (written: string, isLast = false) => {
    const piece =
      reader === undefined ? written : reader.push(written).text + (isLast ? reader.flush().text : '')
    text += piece
    if (piece !== '') write(piece)
  }
  const cancel = () => engine.cancel(id)
  return await new Promise<Spoken>((resolve, reject) => {
    signal?.addEventListener('abort', cancel, { once: true })
    const end = (finish: Finish) => {
      signal?.removeEventListener('abort', cancel)
      if (finish.reason === 'failed')
        reject(new UserError(`The engine failed: ${finish.message ?? 'unknown'}`))
      else resolve({ text, finish, firstMs, restMs: performance.now() - startedMs - firstMs })
    }
    const request = {
      id,
      prompt,
      sampling: samplingOf(flags, model.defaults),
      maxTokens: Math.min(flags.maxTokens ?? 512, room),
      minTokens: flags.minTokens ?? 0,
      ignoreEos: flags.ignoreEos ?? false,
      stopTokens: [...tokenizer.eosTokens, ...ends],
      tenant: 'terminal',
      priority: 0,
    }
    engine
      .submit(request, ({ tokens, finish }) => {
        if (firstMs === 0 && tokens.length > 0) firstMs = performance.now() - startedMs
        if (!transcript.stopped) show(transcript.push(tokens).text)
        if (transcript.stopped && finish === undefined) cancel()
        if (finish === undefined) return
        show(transcript.stopped ? '' : transcript.flush().text, true)
        end(transcript.stopped ? { ...finish, reason: 'stop' } : finish)
      })
      .then((admission) => {
        if (!admission.ok) reject(new UserError(`The engine refused the request: ${admission.code}.`))
      }, reject)
  })
}
