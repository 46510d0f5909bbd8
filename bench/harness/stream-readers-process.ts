/** The readers' process; see stream-readers.ts. Plain node:http: a heavier client would hide what is measured. */
import { Agent, type IncomingMessage, request } from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { systemClock } from '../../src/base/clock.ts'
import { messageOf } from '../../src/base/errors.ts'
import type { FromReaders, Probed, ProbeSetup, Target, ToReaders } from './stream-readers.ts'

const agent = new Agent({ keepAlive: true, noDelay: true })
/** Streams of a crowd that are opened at once, and the pause behind them: a listener's backlog is finite. */
const burst = 100
const burstPauseMs = 20
const warmUpMax = 20

const doneMark = 'data: [DONE]\n\n'

interface Heard extends Probed {
  events: number
}

function ask(target: Target, body: object, onFirst: () => void = () => {}): Promise<Heard> {
  const bytes = Buffer.from(JSON.stringify({ ...body, model: target.model, stream: true }))
  const headers = {
    'content-type': 'application/json',
    'content-length': bytes.length,
    authorization: `Bearer ${target.key}`,
  }
  const sentMs = systemClock.nowMs()
  return new Promise((resolve, reject) => {
    const post = request(`${target.url}/v1/completions`, { agent, method: 'POST', headers }, (response) =>
      listen(response, sentMs, onFirst).then(resolve, reject),
    )
    post.once('error', reject)
    post.end(bytes)
  })
}

function listen(response: IncomingMessage, sentMs: number, onFirst: () => void): Promise<Heard> {
  return new Promise((resolve, reject) => {
    let firstMs: number | undefined
    let events = 0
    let end = ''
    response.setEncoding('latin1')
    response.on('data', (text: string) => {
      if (firstMs === undefined) onFirst()
      firstMs ??= systemClock.nowMs() - sentMs
      for (let at = text.indexOf('data: '); at >= 0; at = text.indexOf('data: ', at + 6)) events++
      end =
        text.length >= doneMark.length ? text.slice(-doneMark.length) : (end + text).slice(-doneMark.length)
    })
    response.once('end', () => {
      if (response.statusCode !== 200) reject(new Error(`HTTP ${response.statusCode}`))
      else if (end !== doneMark || firstMs === undefined) reject(new Error('a stream broke off'))
      else resolve({ firstMs, totalMs: systemClock.nowMs() - sentMs, events })
    })
    response.once('error', reject)
  })
}

async function probe({ targets, requests, outputTokens, promptTokens }: ProbeSetup): Promise<void> {
  const probed: Probed[][] = targets.map(() => [])
  const warmUp = Math.min(warmUpMax, requests)
  for (let turn = 0; turn < warmUp + requests; turn++) {
    for (const [index, target] of targets.entries()) {
      // Never the same prompt: a prefix cache would answer for it.
      const prompt = Array.from(
        { length: promptTokens },
        (_, at) => 259 + ((turn * 7 + at * 3 + index) % 200),
      )
      const body = { prompt, max_tokens: outputTokens, temperature: 0, ignore_eos: true }
      const { firstMs, totalMs } = await ask(target, body)
      if (turn >= warmUp) probed[index]!.push({ firstMs, totalMs })
    }
  }
  tell({ type: 'probed', probed })
}

async function crowd(target: Target, streams: number, outputTokens: number): Promise<void> {
  let streaming = 0
  const faults = new Set<string>()
  const onFirst = () => {
    if (++streaming === streams) tell({ type: 'allStreaming' })
  }
  const asked: Promise<Heard | undefined>[] = []
  for (let index = 0; index < streams; index++) {
    if (index % burst === burst - 1) await pause(burstPauseMs)
    const heard = ask(target, { prompt: `Story ${index}`, max_tokens: outputTokens }, onFirst)
    asked.push(
      heard.catch((error: unknown) => {
        faults.add(messageOf(error))
        return undefined
      }),
    )
  }
  const all = (await Promise.all(asked)).filter((heard) => heard !== undefined)
  // Each token is an event, and [DONE] is one.
  const complete = all.filter(({ events }) => events === outputTokens + 1).length
  const events = all.reduce((sum, heard) => sum + heard.events, 0)
  tell({ type: 'crowdEnded', result: { complete, faults: [...faults], events } })
}

function tell(message: FromReaders): void {
  if (process.connected) process.send?.(message)
}

process.on('disconnect', () => process.exit(0))
process.on('message', (message: ToReaders) => {
  const work =
    message.type === 'probe'
      ? probe(message.setup)
      : crowd(message.target, message.streams, message.outputTokens)
  work.catch((error: unknown) => tell({ type: 'failed', message: messageOf(error) }))
})
