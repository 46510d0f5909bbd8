import { setTimeout as delay } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { ManualClock } from '../../../src/base/clock.ts'
import { eventsMax, Outbox, waitingMax } from '../../../src/train/watch/outbox.ts'
import type { RunEvent, Sink } from '../../../src/train/watch/sink.ts'

function point(step: number): RunEvent {
  return { kind: 'metrics', atMs: 0, step, values: { loss: 1 } }
}
const end: RunEvent = { kind: 'end', atMs: 0, outcome: 'finished', step: 1 }

class Memory implements Sink {
  readonly name = 'The test'
  readonly got: RunEvent[] = []
  calls = 0
  fails = false

  async write(events: readonly RunEvent[]): Promise<void> {
    this.calls++
    if (this.fails) throw new Error('it is away')
    expect(events.length).toBeLessThanOrEqual(eventsMax)
    this.got.push(...events)
  }
}

function open() {
  const sink = new Memory()
  const notes: string[] = []
  const clock = new ManualClock()
  return { sink, notes, clock, outbox: new Outbox(sink, clock, (text) => notes.push(text)) }
}

test('every event arrives once and in order, however many are put at once', async () => {
  const { sink, notes, outbox } = open()
  const events = Array.from({ length: 3 * eventsMax + 7 }, (_, step) => point(step))
  for (const event of events) outbox.put(event)
  await outbox.close()
  expect(sink.got).toEqual(events)
  expect(notes).toEqual([])
})

test('a sink that is away is told of once, left alone for a while, and gets everything when it is back', async () => {
  const { sink, notes, clock, outbox } = open()
  sink.fails = true
  outbox.put(point(0))
  await settled()
  for (let step = 1; step < 50; step++) outbox.put(point(step))
  await settled()
  expect(sink.calls).toBe(1)
  clock.advance(1000)
  outbox.put(point(50))
  await settled()
  expect(sink.calls).toBe(2)
  sink.fails = false
  clock.advance(2000)
  outbox.put(point(51))
  await outbox.close()
  expect(sink.got.map((event) => (event.kind === 'metrics' ? event.step : -1))).toEqual(
    Array.from({ length: 52 }, (_, step) => step),
  )
  expect(notes).toEqual([
    'The test takes no events (it is away); training goes on.',
    'The test takes events again.',
  ])
})

test('no more than a limit of events waits: the oldest points go, the end stays, and the loss is told', async () => {
  const { sink, notes, outbox } = open()
  sink.fails = true
  outbox.put(end)
  for (let step = 0; step < waitingMax + 9; step++) outbox.put(point(step))
  await settled()
  sink.fails = false
  await outbox.close()
  expect(sink.got).toHaveLength(waitingMax)
  expect(sink.got[0]).toEqual(end)
  expect(sink.got[1]).toEqual(point(10))
  expect(notes.at(-1)).toBe('The test did not get 10 events of this run.')
})

test('a sink that stays away does not fail the run', async () => {
  const { sink, notes, outbox } = open()
  sink.fails = true
  outbox.put(end)
  await outbox.close()
  expect(notes.at(-1)).toBe('The test did not get 1 events of this run.')
})

/** What was begun has run: nothing here waits for the world. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 10; turn++) await Promise.resolve()
}

test('a sink whose every call is slow ends with the time that it is given, and what it did not get is said', async () => {
  const notes: string[] = []
  let written = 0
  const slow: Sink = {
    name: 'The slow one',
    write: async (events, signal) => {
      await delay(20, undefined, { signal })
      written += events.length
    },
  }
  const outbox = new Outbox(slow, new ManualClock(), (text) => notes.push(text))
  for (let step = 1; step <= waitingMax; step++) outbox.put(point(step))
  await outbox.close(50)
  expect(written).toBeLessThan(waitingMax)
  expect(notes).toContain(`The slow one did not get ${waitingMax - written} events of this run.`)
})
