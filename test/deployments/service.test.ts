import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import * as api from '../../src/api/control/deployments.ts'
import { Refused } from '../../src/api/control/problem.ts'
import { ManualClock } from '../../src/base/clock.ts'
import { Deployments } from '../../src/control/deployments/deployments.ts'
import { deploymentMigrations } from '../../src/control/deployments/migration.ts'
import { deploymentRoutes } from '../../src/control/deployments/routes.ts'
import { RequestLog } from '../../src/control/gateway/request-log.ts'
import { FakeLauncher, FakeMachine } from '../launchers/fake-launcher.ts'
import { addMember, startService } from '../service/running.ts'
import { onEveryDatabase } from '../store/databases.ts'
import { anything } from './world.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-deployment-routes-'))
afterAll(() => rmSync(scratch, { recursive: true, force: true, maxRetries: 9 }))
let count = 0

onEveryDatabase((databases) => {
  test('deployments are made, changed, rolled back and deleted over the API, by those who may', async () => {
    const clock = new ManualClock(Date.UTC(2026, 10, 26, 9))
    const machine = new FakeMachine(clock, {}, () => ({
      ...{ startMs: 0, durationMs: 1e9, exitCode: 0, lines: ['loading', 'ready'] },
      onTerm: 'ignore',
    }))
    const requestLog = new RequestLog(join(scratch, `${++count}`), clock, {
      onFault: () => expect.unreachable(),
    })
    let wakes = 0
    let isSpent = false
    await using service = await startService(databases, {
      migrations: deploymentMigrations,
      routes: (store) => [
        deploymentRoutes({
          deployments: new Deployments(store, 'local', anything, () => void wakes++),
          cluster: 'local',
          launcher: new FakeLauncher(machine),
          requestLog,
          report: () => undefined,
          address: () => null,
          checkBudget: async () => {
            if (isSpent) throw new Refused('budget_exhausted', 'Nothing is left.')
          },
        }),
      ],
      clock,
    })
    const { owner } = service
    const params = { project: 'default' }
    const body = { name: 'stories', version: { model: 'one' } }
    const developer = await addMember(service, 'dev', 'develop')
    await expect(developer.call(api.createDeployment, { params, body })).rejects.toMatchObject({
      code: 'forbidden',
    })
    const made = await owner.call(api.createDeployment, { params, body })
    expect(made).toMatchObject({
      name: 'stories',
      state: 'starting',
      target: 'v1',
      serving: null,
      replicas: [],
    })
    expect(wakes).toBe(1)
    await expect(owner.call(api.createDeployment, { params, body })).rejects.toThrow(/exists already/)

    const one = { ...params, deployment: 'stor' }
    const changed = await owner.call(api.updateDeployment, {
      params: one,
      body: { version: { model: 'two' }, scaling: { max: 3 }, public: true },
    })
    expect(changed).toMatchObject({ target: 'v2', public: true, scaling: { min: 1, max: 3 } })
    isSpent = true
    const change = (body: Parameters<typeof owner.call<typeof api.updateDeployment>>[1]['body']) =>
      owner.call(api.updateDeployment, { params: one, body })
    for (const more of [
      { scaling: { min: 2, max: 3 } },
      { scaling: { max: 4 } },
      { version: { model: 'two' } },
    ])
      await expect(change(more)).rejects.toMatchObject({ code: 'budget_exhausted' })
    expect(await change({ scaling: { min: 0, max: 2 } })).toMatchObject({ scaling: { min: 0, max: 2 } })
    isSpent = false
    await expect(owner.call(api.rollbackDeployment, { params: one, body: {} })).rejects.toThrow(
      /has served yet/,
    )
    expect(await owner.call(api.rollbackDeployment, { params: one, body: { version: 'v1' } })).toMatchObject({
      target: 'v1',
    })
    await expect(owner.call(api.promoteDeployment, { params: one })).rejects.toMatchObject({
      code: 'conflict',
    })
    const wrong = { rollout: { gate: { cases: [{ request: { prompt: 'x' }, expect: { regex: '(' } }] } } }
    await expect(owner.call(api.updateDeployment, { params: one, body: wrong })).rejects.toThrow(
      /cases.0.expect/,
    )
    const { items } = await developer.call(api.deploymentEvents, { params: one, query: {} })
    expect(items.map(({ kind }) => kind.replace('deployment.', ''))).toEqual([
      ...['rolled_back', 'updated', 'version_added', 'created'],
    ])

    const replica = `${made.id}.1`
    machine.submit({ id: replica, command: ['x'], environment: {}, folder: '/', members: 1 })
    const logs = await owner.call(api.replicaLogs, { params: { ...one, replica }, query: {} })
    expect(logs.lines.map(({ text }) => text)).toEqual(['loading', 'ready'])
    for (const other of ['dep_other.1', '../secret', `${made.id}`])
      await expect(
        owner.call(api.replicaLogs, { params: { ...one, replica: other }, query: {} }),
      ).rejects.toMatchObject({ code: 'not_found' })

    const chat = { messages: [{ role: 'user', content: 'Is it?' }] }
    const request = { request: 'r', key: 'k', version: 'v1', path: '/v1/chat/completions', ms: 3 }
    const answer = { body: chat, answers: ['Yes.'], finishes: ['stop'] }
    requestLog.write('stories', { at: clock.unixMs(), ...request, ...answer })
    // Of a deployment of other people that had the name before, and is deleted.
    const theirs = { messages: [{ role: 'user', content: 'A secret.' }] }
    requestLog.write('stories', { at: made.createdAt - 1, ...request, ...answer, body: theirs })
    const lines: unknown[] = []
    const dataset = owner.events(api.downloadRequests, { params: one, query: { as: 'dataset' } })
    for await (const line of dataset) lines.push(line)
    expect(lines).toEqual([{ messages: [...chat.messages, { role: 'assistant', content: 'Yes.' }] }])
    await expect(developer.call(api.loggedHours, { params: one })).rejects.toMatchObject({
      code: 'forbidden',
    })
    expect(service.log.join()).not.toContain('Is it?')

    await owner.call(api.deleteDeployment, { params: one })
    expect(await owner.call(api.showDeployment, { params: one })).toMatchObject({ state: 'deleting' })
    await expect(owner.call(api.updateDeployment, { params: one, body: { public: false } })).rejects.toThrow(
      /no such/,
    )
  })
})
