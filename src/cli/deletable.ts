/** The verbs delete and restore of what can be taken back for a day: datasets, checkpoints, models. */
import type { Command } from 'commander'
import { completeWith, confirm, type NounFlags, onService, type Session } from './noun.ts'
import { note } from './terminal.ts'

/** How a noun is deleted. */
export interface Deletable<Item extends { id: string; name: string }> {
  readonly word: string
  /** For the help of delete. */
  readonly says: string
  /** What else is to be known before it is done: `with all its versions`. */
  readonly question: string
  find(session: Session, typed: string): Promise<{ id: string; name: string }>
  delete(session: Session, id: string): Promise<unknown>
  restore(session: Session, id: string): Promise<Item>
  /** Ids of those that can be restored. */
  deleted(session: Session): Promise<string[]>
  show(session: Session, restored: Item): void
}

/** `named` makes a verb whose argument is the name of one. */
export function deleteVerbs<Item extends { id: string; name: string }>(
  noun: Command,
  named: (verb: string, description: string) => Command,
  deletable: Deletable<Item>,
): void {
  const { word, says, question } = deletable
  onService(
    named('delete', says).option('-y, --yes', 'do not ask'),
    async (session, flags: NounFlags, typed: string) => {
      const { id, name } = await deletable.find(session, typed)
      await confirm(`Delete the ${word} ${name}${question}`, flags)
      await deletable.delete(session, id)
      note(`Deleted ${name}. For 24 hours: ropeway ${word} restore ${id}`)
    },
  )
  onService(
    completeWith(
      noun.command('restore').description('take back a deletion within 24 hours').argument('<id>'),
      (session) => deletable.deleted(session),
    ),
    async (session, _: NounFlags, id: string) =>
      deletable.show(session, await deletable.restore(session, id)),
  )
}
