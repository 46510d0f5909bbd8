/** Where a service keeps its state, said the same way to every command that opens it. */
import { join } from 'node:path'
import { type Command, Option } from 'commander'
import { ropewayHome } from './home.ts'

export interface DataFlags {
  data?: string
  database?: string
}

/** What to do when another server has the folder. */
export const otherServerFix =
  'Stop it first, or give another folder with --data. Several servers share a PostgreSQL (--database).'

export function withDataOptions(command: Command): Command {
  return command
    .option('--data <folder>', 'where it keeps everything (default: service in the home of Ropeway)')
    .addOption(
      new Option(
        '--database <url>',
        'postgres://USER:PASSWORD@HOST/DATABASE instead of a file in the data folder',
      ).env('ROPEWAY_DATABASE'),
    )
}

export function dataOf({ data, database }: DataFlags): { folder: string; database: string } {
  const folder = data ?? join(ropewayHome(), 'service')
  return { folder, database: database ?? join(folder, 'ropeway.db') }
}
