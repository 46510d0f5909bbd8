/** The clients' process; see streaming-clients.ts. */
import { messageOf } from '../../src/base/errors.ts'
import { Random } from '../../src/base/random.ts'
import type { CrowdSetup, FromCrowd, ToCrowd } from './streaming-clients.ts'
import { randomPrompt } from './workload.ts'

const stopping = new AbortController()
let events = 0
let streaming = 0

function tell(message: FromCrowd): void {
  if (process.connected) process.send?.(message)
}

async function client(setup: CrowdSetup, index: number): Promise<void> {
  const random = new Random(index)
  let first = true
  while (!stopping.signal.aborted) {
    const body = {
      model: 'bench',
      prompt: randomPrompt(random, setup.promptTokens, setup.vocabularySize),
      max_tokens: setup.outputTokens,
      temperature: 0,
      ignore_eos: true,
      stream: true,
    }
    const response = await fetch(`${setup.url}/v1/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify(body),
      signal: stopping.signal,
    })
    if (!response.ok) throw new Error(`HTTP ${response.status}: ${await response.text()}`)
    const decoder = new TextDecoder()
    for await (const part of response.body!) {
      events += decoder.decode(part, { stream: true }).split('data: ').length - 1
      if (first && ++streaming === setup.clients) tell({ type: 'allStreaming' })
      first = false
    }
  }
}

async function crowd(setup: CrowdSetup): Promise<void> {
  try {
    await Promise.all(Array.from({ length: setup.clients }, (_, index) => client(setup, index)))
  } catch (error) {
    if (!stopping.signal.aborted) tell({ type: 'failed', message: messageOf(error) })
  }
}

process.on('disconnect', () => process.exit(0))
process.on('message', (message: ToCrowd) => {
  if (message.type === 'start') void crowd(message.setup)
  else {
    stopping.abort()
    tell({ type: 'stopped', events })
  }
})
