import type { Command } from 'commander'
import { type DataFlags, withDataOptions } from '../service-data.ts'

export function backupCommands(program: Command): void {
  withDataOptions(
    program
      .command('backup')
      .description('copy everything that the service holds into a folder; it may run meanwhile')
      .argument('<folder>', 'must not exist')
      .option(
        '--without-objects',
        'leave out objects that are not in the data folder: a bucket is kept by its own means',
      ),
  ).action(
    async (target: string, flags: DataFlags & { withoutObjects?: boolean }) =>
      await (await copies()).runBackup(target, flags),
  )
  withDataOptions(
    program
      .command('restore')
      .description('make a service again from a backup')
      .argument('<folder>', 'that `ropeway backup` made'),
  ).action(async (source: string, flags: DataFlags) => await (await copies()).runRestore(source, flags))
  withDataOptions(
    program
      .command('migrate')
      .description('copy the database of a stopped service into an empty one, and verify it')
      .requiredOption('--to <url>', 'postgres://USER:PASSWORD@HOST/DATABASE, or the path of a file'),
  ).action(async (flags: DataFlags & { to: string }) => await (await copies()).runMigrate(flags))
}

/** Databases would make every other command start later. */
const copies = () => import('../service-copies.ts')
