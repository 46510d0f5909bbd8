import { mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeEach, expect, test, vi } from 'vitest'
import { readContexts, saveContext } from '../../src/cli/contexts.ts'
import { contextOf, currentElsewhere, keepContext } from '../../src/cli/service-context.ts'

const scratch = mkdtempSync(join(tmpdir(), 'ropeway-context-'))
afterAll(() => {
  vi.unstubAllEnvs()
  rmSync(scratch, { recursive: true, force: true })
})
let home = 0
beforeEach(() => vi.stubEnv('ROPEWAY_HOME', join(scratch, `home-${home++}`)))
const url = 'http://127.0.0.1:8600'
const elsewhere = 'http://127.0.0.1:8700'

function folder(name: string): string {
  const path = join(scratch, name)
  mkdirSync(path, { recursive: true })
  return path
}

test('the first service of a machine is local, and each other one is called as its folder', () => {
  keepContext(contextOf(folder('one'), url), folder('one'), { url, token: 'a' })
  for (const [path, name] of [
    ['b/service two', 'service-two'],
    ['c/service two', 'service-two-2'],
    ['local', 'local-2'],
  ] as const) {
    const known = contextOf(folder(path), elsewhere)
    expect(known).toEqual({ name, saved: undefined })
    keepContext(known, folder(path), { url: elsewhere, token: name })
    expect(currentElsewhere(name)).toMatch(/"local" \(http:\/\/127.0.0.1:8600\); `ropeway context use/)
  }
  const { current, contexts } = readContexts()
  expect([current, contexts.local!.token]).toEqual(['local', 'a'])
  symlinkSync(folder('one'), join(scratch, 'link'))
  expect(contextOf(join(scratch, 'link')).name).toBe('local')
})

test('a context of a version that did not say whose it is goes to a service that may be it', () => {
  saveContext('local', { url, token: 'a' })
  expect(contextOf(folder('one')).name).toBe('local')
  expect(contextOf(folder('one'), url).name).toBe('local')
  // Its database is new, so nobody has a key of it yet.
  expect(contextOf(folder('one'), elsewhere).name).toBe('one')
})

test('who logs in elsewhere under the name of a service of this machine has left that', () => {
  keepContext(contextOf(folder('one'), url), folder('one'), { url, token: 'a' })
  saveContext('local', { url: 'https://ropeway.example.org', token: 'b' })
  expect(readContexts().contexts.local).toEqual({ url: 'https://ropeway.example.org', token: 'b' })
})
