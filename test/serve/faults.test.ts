import { expect, test } from 'vitest'
import { messageOf } from '../../src/base/errors.ts'
import { faults, withFault } from './faults.ts'
import { simulate } from './simulation.ts'

const seedsMax = 400

async function firstCaught(): Promise<{ seed: number; promise: string } | undefined> {
  for (let seed = 0; seed < seedsMax; seed++) {
    try {
      await simulate(seed)
    } catch (error) {
      return { seed, promise: messageOf(error) }
    }
  }
  return undefined
}

test.each(Object.keys(faults))('the simulation notices when %s', async (name) => {
  const caught = await withFault(faults[name]!, firstCaught)
  if (process.env.ROPEWAY_SIM_VERBOSE !== undefined) console.log(`${name}: ${JSON.stringify(caught)}`)
  expect(caught).toBeDefined()
})
