import type { Command } from 'commander'
import type { z } from 'zod'
import { type auditEntry, listProjectAudit, listServiceAudit } from '../../api/control/audit.ts'
import { all, type NounFlags, onService, type Session } from '../noun.ts'
import { wholeNumber } from '../options.ts'
import { type Output, timeText } from '../output.ts'

interface AuditFlags extends NounFlags {
  limit: number
  everywhere?: boolean
}

export function auditCommand(program: Command): void {
  const noun = program.command('audit').description('who did what in a project')
  onService(
    noun
      .command('list', { isDefault: true })
      .description('list deeds, newest first')
      .option('--everywhere', 'in the whole service, accounts and machines too; for who runs it')
      .option('--limit <n>', 'how many', wholeNumber(1, 100_000), 100),
    runList,
  )
}

async function runList(session: Session, { limit, everywhere }: AuditFlags): Promise<void> {
  const { client, out } = session
  const entries =
    everywhere === true
      ? client.items(listServiceAudit, {})
      : client.items(listProjectAudit, { params: { project: session.project } })
  printAudit(out, await all(entries, limit))
}

export function printAudit(out: Output, entries: readonly z.output<typeof auditEntry>[]): void {
  out.list(entries, {
    AT: ({ at }) => timeText(at),
    PROJECT: ({ project }) => project,
    PERSON: ({ person }) => person,
    WITH: ({ actor }) => actor,
    ACTION: ({ action }) => action,
    SUBJECT: ({ subject }) => subject,
    FROM: ({ address }) => address,
  })
}
