import type { Command } from 'commander'
import { UserError } from '../../base/errors.ts'
import { line } from '../output.ts'

export function schemaCommand(program: Command): void {
  program
    .command('schema')
    .description('print the JSON schema of a file that you write, for editors')
    .argument('[file]', 'which; without it, they are listed')
    .action(async (given: string | undefined) => {
      // Everything that checks files would make every other command start later.
      const { schemaNames, schemaOf } = await import('../schemas.ts')
      const names = Object.keys(schemaNames) as (keyof typeof schemaNames)[]
      const name = names.find((one) => one === given)
      if (name !== undefined) return line(JSON.stringify(schemaOf(name), undefined, 2))
      if (given === undefined)
        return line(names.map((one) => `${one.padEnd(12)}${schemaNames[one]}`).join('\n'))
      throw new UserError(`There is no schema ${given}.`, {
        failure: 'not_found',
        fix: `It takes one of ${names.join(', ')}.`,
      })
    })
}
