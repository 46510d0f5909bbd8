import { describe, expect, test } from 'vitest'
import { UserError } from '../../src/base/errors.ts'
import { type Constraint, type Verdict, verdictOf } from '../../src/constrain/constraint.ts'
import { ChatTemplate } from '../../src/tokenizer/chat-template.ts'
import { harness, model, post } from './harness.ts'

const schemaOf = (name: string) => ({ type: 'object', properties: { [name]: { type: 'integer' } } })
const formatOf = (schema: object) => ({ type: 'json_schema', json_schema: { name: 'n', schema } })
const chat = { model, messages: [{ role: 'user', content: 'hi' }], max_tokens: 1 }
const asking = (name: string) => ({ ...chat, response_format: formatOf(schemaOf(name)) })
const toolOf = (name: string, strict: boolean) => ({
  type: 'function',
  function: { name, strict, parameters: schemaOf(name) },
})

/** Stands for the thread: tells nothing before it is let, and remembers what it was asked. */
class HeldChecks {
  readonly asked: { constraint: Constraint; settle: (verdict: Verdict | Promise<never>) => void }[] = []
  #wake: () => void = () => {}

  check(constraint: Constraint): Promise<Verdict> {
    return new Promise((resolve) => {
      this.asked.push({ constraint, settle: resolve })
      this.#wake()
    })
  }

  /** When so many were asked, or `instead` came before that. */
  async been(count: number, instead: Promise<unknown>): Promise<void> {
    while (this.asked.length < count) {
      const woken = new Promise<void>((resolve) => {
        this.#wake = resolve
      })
      const answered = instead.then(() => {
        throw new Error(`answered before the thread was asked ${count} times`)
      })
      await Promise.race([woken, answered])
    }
  }
}

async function served(options: Parameters<typeof harness>[0] = {}) {
  const held = new HeldChecks()
  const server = await harness({ checkConstraint: (constraint) => held.check(constraint), ...options })
  const ask = (body: object, path = 'chat/completions') => post(`${server.url}/v1/${path}`, body)
  return { held, server, ask }
}

async function errorOf(response: Response) {
  const { error } = (await response.json()) as { error: { message: string; code: string; param: string } }
  return { status: response.status, ...error }
}

describe('while it is found out whether a schema can be kept', () => {
  test.each([
    ['chat/completions', asking('a')],
    ['completions', { model, prompt: 'hi', max_tokens: 1, response_format: formatOf(schemaOf('a')) }],
    ['chat/completions', { ...chat, tools: [toolOf('a', true)] }],
    ['chat/completions', { ...chat, tools: [toolOf('a', false)], tool_choice: 'required' }],
  ])('other requests are answered: %s %#', async (path, body) => {
    const template = new ChatTemplate('{{ messages[0].content }}{{ tools }}<tool_call>')
    const { held, server, ask } = await served({ template })
    await using _ = server
    const answer = ask(body, path)
    const checks = 'tools' in body ? 2 : 1
    for (let count = 1; count <= checks; count++) {
      await held.been(count, answer)
      expect((await fetch(`${server.url}/health`)).status).toBe(200)
      expect((await ask(chat)).status).toBe(200)
      const { constraint, settle } = held.asked[count - 1]!
      settle(verdictOf(constraint))
    }
    expect((await answer).status).toBe(200)
    expect(server.engine.submitted.at(-1)!.constraint).toEqual(held.asked.at(-1)!.constraint)
  })

  test('those who ask with the same one wait for one answer, and later ones for none', async () => {
    const { held, server, ask } = await served({ limits: { checksMax: 1 } })
    await using _ = server
    const answers = [ask(asking('a')), ask(asking('a'))]
    await held.been(1, Promise.race(answers))
    held.asked[0]!.settle({ ok: true })
    for (const answer of answers) expect((await answer).status).toBe(200)
    expect((await ask(asking('a'))).status).toBe(200)
    expect(held.asked).toHaveLength(1)
  })

  test('one more than may wait is told to come again, and may when there is room', async () => {
    const { held, server, ask } = await served({ limits: { checksMax: 1 } })
    await using _ = server
    const first = ask(asking('a'))
    await held.been(1, first)
    const refused = await ask(asking('b'))
    expect(refused.headers.get('retry-after')).toBe('1')
    expect(await errorOf(refused)).toMatchObject({
      status: 429,
      code: 'queue_full',
      message: 'Too many schemas are waiting to be read. Retry in 1 s.',
    })
    held.asked[0]!.settle({ ok: true })
    expect((await first).status).toBe(200)
    const second = ask(asking('b'))
    await held.been(2, second)
    held.asked[1]!.settle({ ok: false, path: 'properties.b', message: 'No.' })
    expect(await errorOf(await second)).toMatchObject({
      status: 400,
      code: 'invalid_json_schema',
      message: 'properties.b: No.',
    })
  })

  test('a thread that dies is no verdict: the next one who asks has it asked again', async () => {
    const { held, server, ask } = await served()
    await using _ = server
    const first = ask(asking('a'))
    await held.been(1, first)
    held.asked[0]!.settle(Promise.reject(new UserError('It ended.', { failure: 'unreachable' })))
    expect(await errorOf(await first)).toMatchObject({ status: 503, code: 'engine_unavailable' })
    const second = ask(asking('a'))
    await held.been(2, second)
    held.asked[1]!.settle({ ok: true })
    expect((await second).status).toBe(200)
    expect(server.errors).toEqual([])
  })
})
