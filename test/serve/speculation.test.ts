import { expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { Engine } from '../../src/serve/engine.ts'
import type { RequestProgress } from '../../src/serve/request.ts'
import { Speculation } from '../../src/serve/speculation.ts'
import { alone, FakeDevice } from './fake-device.ts'
import { greedy, request } from './requests.ts'

const shape = { vocabularySize: 24, contextMax: 512, blockTokens: 8, blockCount: 256 }

async function serve(guessesMax: number, wishes: ReturnType<typeof request>[]) {
  const clock = new ManualClock()
  const device = new FakeDevice(shape, clock)
  device.wholeTextShare = 0.1
  const heard: RequestProgress[] = []
  const engine = new Engine(device, { guessesMax, runningMax: 8, stepTokensMax: 64 }, clock, (items) => {
    heard.push(...items)
  })
  for (const wish of wishes) engine.submit(wish)
  while (await engine.step());
  expect(device.violation).toBeUndefined()
  const tokensOf = (id: string) => heard.filter((item) => item.id === id).flatMap((item) => item.tokens)
  const logprobsOf = (id: string) =>
    heard.filter((item) => item.id === id).flatMap((item) => item.logprobs ?? [])
  return { device, tokensOf, logprobsOf }
}

test.each([
  ['greedy', greedy],
  ['seeded', { ...greedy, temperature: 0.15, seed: 4, topP: 0.9 }],
])('guessing saves iterations and changes neither tokens nor log-probabilities: %s', async (_, sampling) => {
  const prompt = Array.from({ length: 40 }, (_, i) => 2 + (i % 5))
  const wish = () => request({ id: 'one', prompt, maxTokens: 120, sampling, logprobs: 2 })
  const plain = await serve(0, [wish()])
  const guessing = await serve(6, [wish()])
  expect(guessing.tokensOf('one')).toEqual(alone(wish(), shape.vocabularySize, 0.1))
  expect(guessing.logprobsOf('one')).toEqual(plain.logprobsOf('one'))
  expect(plain.device.iterations).toBe(120)
  expect(guessing.device.iterations).toBeLessThan(100)
})

test('a request that stops inside of accepted guesses stops there', async () => {
  const prompt = Array.from({ length: 40 }, (_, i) => 2 + (i % 5))
  const free = alone(request({ prompt, maxTokens: 120 }), shape.vocabularySize, 0.1)
  for (const stop of new Set(free)) {
    const wish = request({ prompt, maxTokens: 120, stopTokens: [stop] })
    const { tokensOf } = await serve(6, [wish])
    expect(tokensOf(wish.id)).toEqual(free.slice(0, free.indexOf(stop)))
  }
})

test('guesses follow the last occurrence of the last tokens', () => {
  const speculation = new Speculation(4)
  const user = { tokens: [1, 2, 3, 4, 5, 6, 1, 2, 3, 9, 8, 1, 2, 3] }
  expect(speculation.lookUp(user, 10, 0)).toEqual([9, 8, 1, 2])
  expect(speculation.lookUp(user, 2, 0)).toEqual([9, 8])
  user.tokens.push(4)
  expect(speculation.lookUp(user, 10, 0)).toEqual([5, 6, 1, 2])
  expect(speculation.lookUp({ tokens: [1, 2, 3, 4] }, 10, 0)).toEqual([])
})

test('guessing stops when guesses turn out wrong, and tries again after a while', () => {
  const speculation = new Speculation(8)
  const user = { tokens: Array.from({ length: 50 }, (_, i) => i % 5) }
  const price = 0.2
  let tries = 0
  for (let i = 0; i < 200; i++) {
    const guesses = speculation.lookUp(user, 8, price)
    if (guesses.length > 0) {
      tries++
      speculation.learn(user, 'lookup', guesses.length, 0)
    }
    user.tokens.push(i % 5)
  }
  expect(tries).toBeGreaterThan(10)
  expect(tries).toBeLessThan(20)
})

test('guesses become longer when they come true, and shorter when the batch makes them dear', () => {
  const speculation = new Speculation(8)
  const user = { tokens: Array.from({ length: 50 }, (_, i) => i % 5) }
  const first = speculation.lookUp(user, 8, 0.2).length
  for (let i = 0; i < 20; i++) speculation.learn(user, 'lookup', 4, 4)
  expect(speculation.lookUp(user, 8, 0.2).length).toBeGreaterThan(first)
  expect(speculation.lookUp(user, 8, 1.1)).toEqual([])
})
