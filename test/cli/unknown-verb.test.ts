import { expect, test } from 'vitest'
import { buildProgram } from '../../src/cli/program.ts'
import { ropeway } from './command-line.ts'

test.each([
  ['deployment show w', 'There is no command "show" of ropeway deployment.', '`ropeway deployment view`'],
  ['keys rm a -y', 'There is no command "rm" of ropeway key.', '`ropeway key revoke`'],
  ['job submit', 'There is no command "submit" of ropeway job.', '`ropeway job run`'],
  ['model promot a', 'There is no command "promot" of ropeway model.', '`ropeway model promote`'],
  ['job constructor', 'There is no command "constructor" of ropeway job.', 'list, run, view'],
  ['project delete default -y', 'There is no command "delete" of ropeway project.', 'list, create, view'],
  ['usage bugets', 'There is no command "bugets" of ropeway usage.', '`ropeway usage budgets`'],
])('%s', async (line, message, fix) => {
  const { code, err } = await ropeway(line.split(' '))
  expect(code).toBe(2)
  expect(err).toContain(message)
  expect(err).toContain(fix)
})

test('every verb that there is passes', async () => {
  for (const noun of buildProgram().commands)
    for (const verb of noun.commands)
      for (const name of [verb.name(), ...verb.aliases()]) {
        const { code, err } = await ropeway([noun.name(), name, '--help'])
        expect(`${code} ${err}`, `${noun.name()} ${name}`).toBe('0 ')
      }
})
