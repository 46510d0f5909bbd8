import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { ManualClock } from '../../src/base/clock.ts'
import { Random } from '../../src/base/random.ts'
import { UsageLog } from '../../src/openai/usage-log.ts'
import { post } from '../openai/harness.ts'
import { sumOfEngineLogs } from './engine-logs.ts'
import { gatewayOver } from './harness.ts'
import { deployment, scriptedReplica, version } from './scripted-replica.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-engine-logs-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 9 }))

/** Reads until it has so many events, then leaves. */
async function leaveBehind(response: Response, eventsWanted: number): Promise<void> {
  let text = ''
  for await (const part of response.body!) {
    text += Buffer.from(part).toString('utf8')
    if (text.split('data: ').length > eventsWanted) return
  }
}

test("the gateway's ledger is the sum of its engines' logs, with failovers and with clients that leave", async () => {
  const paths: string[] = []
  const replica = async (id: string) => {
    const path = join(scratch, `${id}.ndjson`)
    paths.push(path)
    const usageLog = new UsageLog(path, new ManualClock(), { onFault: () => expect.unreachable() })
    const served = await scriptedReplica(id, { usageLog })
    return { ...served, usageLog }
  }
  const random = new Random(3)
  let replicas = [await replica('r0'), await replica('r1')]
  await using through = await gatewayOver([])
  const publish = () =>
    through.table.replaceDeployment(
      deployment('stories', { versions: [version(replicas.map((one) => one.replica))] }),
    )
  publish()
  const ask = async (stream: boolean, n: number, leavesAfter?: number) => {
    const body = { model: 'stories', prompt: 'Once'.repeat(1 + random.integer(4)), max_tokens: 30, n, stream }
    const response = await post(`${through.url}/v1/completions`, body)
    expect(response.status).toBe(200)
    if (leavesAfter === undefined) await response.text()
    else await leaveBehind(response, leavesAfter)
  }
  for (let round = 0; round < 8; round++) {
    const isDeadly = round % 2 === 1
    const leaves = () => 1 + random.integer(20)
    const asked = Array.from({ length: 8 }, (_, index) =>
      ask(index % 3 > 0, 1 + (index % 2), index % 4 === 1 && !isDeadly ? leaves() : undefined),
    )
    if (isDeadly) {
      // One of the two dies among them, as after a crash, and another comes in its place.
      const dead = replicas[0]!
      await dead.engine.until(() => dead.engine.submitted.length > 0)
      replicas = [replicas[1]!, await replica(`r${round + 2}`)]
      publish()
      await dead.server.close(0)
    }
    await Promise.all(asked)
  }
  // More texts than are in an engine at a time: still one request.
  const input = Array.from({ length: 300 }, (_, i) => `text ${i}`)
  const response = await post(`${through.url}/v1/embeddings`, { model: 'stories', input })
  const { data } = (await response.json()) as { data: { index: number }[] }
  expect(data.map(({ index }) => index)).toEqual(input.map((_, i) => i))
  // Who left is billed when the engine has said what it used.
  await expect
    .poll(async () => (await through.gateway.metrics.render()).match(/in_flight.* (\d+)$/m)?.[1])
    .toBe('0')
  const [row] = through.ledger.sums.rows()
  const { prompt, output, requests } = row!
  expect({ requests, prompt, output }).toEqual(
    sumOfEngineLogs(paths.map((path) => readFileSync(path, 'utf8'))),
  )
  expect(through.errors).toEqual([])
  for (const { server } of replicas) await server.close(0)
})
