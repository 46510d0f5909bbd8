import { expect, test } from 'vitest'
import { atOnce, pausesUntil, type Steps, withPauses } from '../../src/base/pauses.ts'

function* counting(to: number): Steps<number> {
  for (let i = 0; i < to; i++) yield
  return to
}

test('work in steps comes to its end, at once and with pauses', async () => {
  expect(atOnce(counting(1000))).toBe(1000)
  const pause = pausesUntil(new AbortController().signal, () => new Error('interrupted'))
  expect(await withPauses(counting(1000), pause)).toBe(1000)
})

test('work that never ends hears timers and ends by its signal', async () => {
  const stop = new AbortController()
  const pause = pausesUntil(stop.signal, () => new Error('interrupted'))
  setTimeout(() => stop.abort(), 0)
  await expect(withPauses(counting(Number.POSITIVE_INFINITY), pause)).rejects.toThrow('interrupted')
})
