import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { type Budget, Budgets } from '../../src/control/gateway/budgets.ts'
import { mostOf } from '../../src/control/gateway/call.ts'
import { Ledger } from '../../src/control/gateway/ledger.ts'
import { noTokens } from '../../src/control/gateway/usage-sums.ts'
import type { Problem } from '../../src/http/problem.ts'
import { post } from '../openai/harness.ts'
import { bearer, gatewayOver, knows } from './harness.ts'
import { deployment, scriptedReplica, version } from './scripted-replica.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-budgets-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 9 }))
const startMs = Date.UTC(2026, 10, 25, 12)
let count = 0

/** A ledger with budgets, and a request of a key that may use so many tokens. */
function gate(...budgets: Budget[]) {
  const clock = new ManualClock(startMs)
  const ledger = new Ledger(join(scratch, `${++count}`), clock)
  const prices = [{ model: '*', inputPerMillion: 0, outputPerMillion: 1e6 }]
  const all = new Budgets({
    ...{ budgets: () => budgets, prices: () => prices, sums: () => [ledger.sums], clock },
  })
  const ask = (output: number, key = 'k') => {
    const bill = ledger.begin({ request: 'r', project: 'main', key, model: 'stories' })
    return { bill, giveBack: all.admit(bill, { ...noTokens, output }) }
  }
  const code = (output: number, key?: string) => {
    try {
      ask(output, key).giveBack()
      return 'ok'
    } catch (error) {
      return (error as Problem).code
    }
  }
  return { ask, code, ledger }
}

const perDay: Budget = { project: 'main', key: 'k', per: 'day', tokens: 100 }

test('of a budget, requests that run may use no more together, whatever comes at once', () => {
  const { ask, code } = gate(perDay)
  const running = [ask(40), ask(40)]
  expect([code(40), code(20), code(40, 'another')]).toEqual(['rate_limit_exceeded', 'ok', 'ok'])
  for (const { bill, giveBack } of running) {
    bill.update({ output: 10 })
    bill.settle()
    giveBack()
  }
  expect([code(81), ask(80) && code(1)]).toEqual(['ok', 'rate_limit_exceeded'])
})

test('a request that may use more than is left of a budget is let through when it is alone', () => {
  const { ask, code } = gate(perDay)
  const { bill, giveBack } = ask(1000)
  expect(code(1)).toBe('rate_limit_exceeded')
  bill.update({ output: 99 })
  bill.settle()
  giveBack()
  const last = ask(1000)
  last.bill.update({ output: 2 })
  last.bill.settle()
  last.giveBack()
  expect(code(1)).toBe('insufficient_quota')
})

test('tokens of an open stream that are written down already do not count twice', () => {
  const { ask, code, ledger } = gate(perDay)
  const { bill } = ask(60)
  bill.update({ output: 50 })
  ledger.flush()
  bill.update({ output: 55 })
  expect([code(40), code(41)]).toEqual(['ok', 'rate_limit_exceeded'])
  // It turns out longer than anybody could know.
  bill.update({ output: 90 })
  expect([code(10), code(11)]).toEqual(['ok', 'rate_limit_exceeded'])
})

test('a budget of cost and one of the whole project hold back as one of tokens does', () => {
  const byCost = gate({ per: 'month', cost: 50 })
  byCost.ask(30)
  expect([byCost.code(20), byCost.code(21)]).toEqual(['ok', 'rate_limit_exceeded'])
  const ofProject = gate({ project: 'main', per: 'day', tokens: 100 })
  ofProject.ask(70)
  expect([ofProject.code(30, 'another'), ofProject.code(31, 'another')]).toEqual([
    'ok',
    'rate_limit_exceeded',
  ])
})

test('what a request may use is told from its body', () => {
  const most = (path: Parameters<typeof mostOf>[0], body: object) => {
    const { prompt, output } = mostOf(path, { ...body })
    return [prompt, output]
  }
  expect(most('/v1/completions', { prompt: ['Once', 'Twice...'], n: 3, max_tokens: 10 })).toEqual([3, 60])
  expect(most('/v1/completions', { prompt: [1, 2, 3] })).toEqual([3, 16])
  const messages = [{ role: 'user', content: 'a'.repeat(400) }]
  const [prompt, output] = most('/v1/chat/completions', { messages, max_tokens: 5, max_completion_tokens: 9 })
  expect(prompt).toBeGreaterThan(100)
  expect(output).toBe(9)
  expect(most('/v1/chat/completions', { messages, n: 2 })[1]).toBe(2 * 2048)
  expect(most('/v1/embeddings', { input: ['four', 'more'] })).toEqual([2, 0])
  expect(most('/v1/completions', { prompt: { odd: [] }, max_tokens: 'many', n: null })[1]).toBe(2048)
})

test('sixteen requests at once under a budget of a hundred tokens: one is answered', async () => {
  await using replica = await scriptedReplica('a')
  await using through = await gatewayOver(
    [deployment('stories', { versions: [version([replica.replica])] })],
    { verify: knows({ one: {} }), budgets: () => [{ key: 'id-of-one', per: 'day', tokens: 100 }] },
  )
  const body = { model: 'stories', prompt: 'Once', max_tokens: 200 }
  const ask = () => post(`${through.url}/v1/completions`, body, bearer('one'))
  const answers = await Promise.all(Array.from({ length: 16 }, ask))
  const statuses = answers.map(({ status }) => status).sort()
  expect(statuses).toEqual([200, ...Array.from({ length: 15 }, () => 429)])
  expect((await ask()).status).toBe(429)
})
