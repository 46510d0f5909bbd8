/** Completion in the shells themselves, with names from a service, quickly, and without a word when there is none. */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Client } from '../../src/api/control/client.ts'
import { readContexts, saveContext } from '../../src/cli/contexts.ts'
import { ropeway, type Workbench, workbench } from './command-line.ts'

const root = join(import.meta.dirname, '..', '..')

let bench: Workbench
beforeAll(async () => {
  bench = await workbench()
  await ropeway(['project', 'create', 'poems'])
  await ropeway(['project', 'create', 'plays'])
  await ropeway(['price', 'set', '*', '--per-hour', '1'])
  mkdirSync(join(bench.folder, 'bin'))
  const shim = `#!/bin/sh\nexec "${process.execPath}" "${join(root, 'bin', 'ropeway.js')}" "$@"\n`
  writeFileSync(join(bench.folder, 'bin', 'ropeway'), shim, { mode: 0o755 })
  for (const shell of ['bash', 'zsh', 'fish'])
    writeFileSync(join(bench.folder, shell), (await ropeway(['completion', shell])).out)
})
afterAll(() => bench[Symbol.asyncDispose]())

const complete = async (...words: string[]) =>
  (await ropeway(['complete', '--', ...words])).out.trim().split('\n')

test('commands, options and their values are completed from the command tree', async () => {
  expect(await complete('dep')).toEqual(['deployment'])
  expect(await complete('job', 'l')).toEqual(['list', 'logs'])
  expect(await complete('jobs', 'logs', '--f')).toEqual(['--follow'])
  expect(await complete('job', 'list', '--state', 'st')).toEqual(['stopped', 'stopping'])
  expect(await complete('up', '--sign-up', '')).toEqual(['invited', 'open'])
  expect(await complete('comp')).toEqual(['completion'])
})

test('names come from the service, for arguments and for options that name things', async () => {
  expect(await complete('project', 'use', 'p')).toEqual(['plays', 'poems'])
  expect(await complete('dataset', 'view', '--project', 'po')).toEqual(['poems'])
  expect(await complete('whoami', '--context', '')).toEqual(['local'])
  expect(await complete('project', 'use', 'poems', '')).toEqual([''])
})

test('names are asked for once in a while, and never shown to others of this machine', async () => {
  await complete('org', 'view', '')
  await ropeway(['org', 'create', 'later'])
  expect(await complete('org', 'view', '')).toEqual(['main'])
  const folder = join(process.env.ROPEWAY_HOME!, 'cache', 'completion')
  expect(readdirSync(folder).length).toBeGreaterThan(0)
  expect(statSync(folder).mode & 0o077).toBe(0)
})

test('without a service there are no names and no messages, and names from before are better than none', async () => {
  const contexts = readContexts()
  saveContext('away', { url: 'http://127.0.0.1:9', token: 'none', project: 'default' })
  expect(await ropeway(['complete', '--', 'dataset', 'view', ''])).toEqual({
    code: 0,
    out: '',
    err: '',
    json: [],
  })
  await ropeway(['context', 'use', 'local'])
  expect(contexts.current).toBe('local')
  // The service is there, and then it is not.
  await complete('cluster', 'view', '')
  expect(await complete('job', 'run', '--cluster', '')).toEqual([''])
  expect(new Client({ url: bench.service.url }).url).toBe(bench.service.url)
})

/** What a shell makes of its script for words of which the last is being typed. */
const shells: Record<string, (words: readonly string[], script: string) => string[]> = {
  bash: (words, script) => [
    '--norc',
    '-c',
    `source "${script}"; COMP_WORDS=(${words.map(quoted).join(' ')}); COMP_CWORD=${words.length - 1}
     complete -p ropeway >/dev/null && _ropeway && printf '%s\n' "\${COMPREPLY[@]}"`,
  ],
  zsh: (words, script) => [
    '-f',
    '-c',
    `compdef() { registered=$2; }; compadd() { print -l -- "\${(@P)2}"; }; _files() { print files; }
     source "${script}"; [[ $registered = ropeway ]] || exit 1
     words=(${words.map(quoted).join(' ')}); CURRENT=${words.length}; _ropeway`,
  ],
  fish: (words, script) => [
    '--no-config',
    '-c',
    `source "${script}"; complete -C ${quoted(words.join(' '))}`,
  ],
}

function quoted(word: string): string {
  return `'${word}'`
}

for (const [shell, argumentsOf] of Object.entries(shells)) {
  const missing = spawnSync(shell, ['--version']).error !== undefined
  if (missing) console.warn(`skipped: ${shell} is not installed`)
  describe.skipIf(missing)(shell, () => {
    const completed = async (...words: string[]) => {
      const child = spawn(shell, argumentsOf(['ropeway', ...words], join(bench.folder, shell)), {
        env: { ...process.env, PATH: `${join(bench.folder, 'bin')}:${process.env.PATH}`, HOME: bench.folder },
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      let [out, err] = ['', '']
      child.stdout.on('data', (piece) => (out += piece))
      child.stderr.on('data', (piece) => (err += piece))
      const [code] = await once(child, 'close')
      expect({ code, err }).toEqual({ code: 0, err: '' })
      return out.trim().split('\n').sort()
    }

    test('completes commands and names of the service', async () => {
      expect(existsSync(join(root, 'dist', 'main.js'))).toBe(true)
      expect(await completed('quot')).toEqual(['quota'])
      expect(await completed('project', 'use', 'p')).toEqual(['plays', 'poems'])
    })

    test('takes names as they are, also those that a shell would expand', async () => {
      expect(await completed('price', 'delete', '')).toEqual(['*'])
    })
  })
}
