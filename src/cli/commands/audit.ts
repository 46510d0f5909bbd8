import type { Command } from 'commander'
import type { z } from 'zod'
import { type auditEntry, listProjectAudit } from '../../api/control/audit.ts'
import { all, type NounFlags, onService, type Session } from '../noun.ts'
import { wholeNumber } from '../options.ts'
import { type Output, timeText } from '../output.ts'

interface AuditFlags extends NounFlags {
  limit: number
}

export function auditCommand(program: Command): void {
  const noun = program.command('audit').description('who did what in a project')
  onService(
    noun
      .command('list', { isDefault: true })
      .description('list deeds, newest first')
      .option('--limit <n>', 'how many', wholeNumber(1, 100_000), 100),
    runList,
  )
}

async function runList({ client, out, project }: Session, { limit }: AuditFlags): Promise<void> {
  printAudit(out, await all(client.items(listProjectAudit, { params: { project } }), limit))
}

export function printAudit(out: Output, entries: readonly z.output<typeof auditEntry>[]): void {
  out.list(entries, {
    AT: ({ at }) => timeText(at),
    PERSON: ({ person }) => person,
    ACTION: ({ action }) => action,
    SUBJECT: ({ subject }) => subject,
    FROM: ({ address }) => address,
  })
}
