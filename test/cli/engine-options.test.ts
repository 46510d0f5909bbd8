/** Options of engines and of servers: what is refused, and what is said. */
import { createServer } from 'node:net'
import { expect, test } from 'vitest'
import { versionInput } from '../../src/api/control/deployments.ts'
import { engineFlags } from '../../src/api/control/engine-flags.ts'
import { launchEngine } from '../../src/cli/engine-options.ts'
import { listen } from '../../src/cli/listening.ts'
import { buildProgram } from '../../src/cli/program.ts'
import { sharedData } from '../shared.ts'
import { ropeway, stderrOf } from './command-line.ts'

const stories = sharedData('models', 'stories260K', 'hf')

test('every flag that a deployment may set is an option of serve', () => {
  const serve = buildProgram().commands.find((command) => command.name() === 'serve')!
  const options = serve.options.map(({ long }) => long)
  for (const flag of engineFlags) expect(options).toContain(`--${flag}`)
})

test.each([
  [{ threads: 8, context: '4096', 'cache-tokens': 1e5, 'kv-type': 'q8_0', device: 'cuda' }, true],
  [{ running: 1, 'step-tokens': '2', 'goal-ttft': '2s', speculate: 0 }, true],
  [{ 'goal-ttft': 500 }, true],
  [{ threads: -5 }, false],
  [{ threads: '1 --trace /tmp/x' }, false],
  [{ threads: 2.5 }, false],
  [{ context: ' ' }, false],
  [{ 'kv-type': 'nope' }, false],
  [{ 'goal-ttft': 'soon' }, false],
  [{ speculate: 17 }, false],
])('a deployment takes %j where the command line does', async (engine, isRight) => {
  expect(versionInput.safeParse({ model: 'm', engine }).success).toBe(isRight)
  const flags = Object.entries(engine).map(([flag, value]) => `--${flag}=${value}`)
  // The model is not there: what is looked at before that are the flags.
  const { err } = await ropeway(['serve', '/no/model', ...flags])
  expect(!/option '--|argument '/.test(err)).toBe(isRight)
})

test.skipIf(stories === undefined).each([
  { given: ['--running', '512'], said: '--running 512 does not fit into --step-tokens 512, the default' },
  {
    given: ['--running', '64', '--step-tokens', '32'],
    said: 'Give --step-tokens 65 or more, or a smaller --running.',
  },
  { given: ['--goal-shed', '2'], said: '--goal-shed is a multiple of --goal-ttft' },
  { given: ['--trace', '/dev/null/trace'], said: 'error: /dev/null/trace cannot be written: ENOTDIR' },
])('$given is refused in words', async ({ given, said }) => {
  const { code, err } = await ropeway(['generate', stories!, '-p', 'Once', '--threads', '1', ...given])
  expect(err).toContain(said)
  expect(err).not.toContain('    at ')
  expect(code).toBeGreaterThan(0)
})

test.each([
  ['foo', 'scheme://host:port, such as https://chat.example.org'],
  ['localhost:3000', 'scheme://host:port'],
  ['https://chat.example.org/', 'Did you mean https://chat.example.org?'],
  ['HTTPS://Chat.example.org/app', 'Did you mean https://chat.example.org?'],
  ['https://chat.example.org:443', 'Did you mean https://chat.example.org?'],
])('--origin %s is no origin, and is refused with what one looks like', async (given, said) => {
  for (const name of ['serve', 'gateway']) {
    const { code, err } = await ropeway([name, 'nowhere', '--origin', given])
    expect(err.replace(/\s+/g, ' ')).toContain(said)
    expect(code).toBe(2)
  }
})

test.each(['https://chat.example.org', 'http://localhost:3000', '*', 'null', 'chrome-extension://abcdef'])(
  '--origin %s is taken',
  async (given) => {
    const { err } = await ropeway(['serve', 'nowhere-at-all', '--origin', given])
    expect(err).not.toContain('origin')
    expect(err).toContain('nowhere-at-all')
  },
)

test.skipIf(stories === undefined)("a context beyond the model's is told to be the model's", async () => {
  const said = await stderrOf(async () => {
    const flags = { device: 'cpu', threads: 1, cacheTokens: 256, context: 4096 }
    const engine = await launchEngine(stories!, flags)
    expect(engine.info.contextMax).toBe(512)
    await engine.close(0)
  })
  expect(said).toContain("--context 4096 is beyond the model's own context of 512, which holds.")
})

test('an address that this machine does not have is not taken for a port in use', async () => {
  const server = {
    listen: (port: number, host: string) =>
      new Promise<string>((resolve, reject) => {
        const socket = createServer().once('error', reject)
        socket.listen(port, host, () => socket.close(() => resolve(host)))
      }),
  }
  // Of a block for documentation (RFC 5737).
  await expect(listen(server, { host: '192.0.2.1', port: 0 })).rejects.toMatchObject({
    message: '192.0.2.1:0 cannot be used: this machine has no such address.',
    fix: expect.stringContaining('--host'),
  })
})
