import type { CredentialKind, CredentialValues } from '../../api/control/credentials.ts'
import { UserError } from '../../base/errors.ts'
import { type NounRow, Nouns } from '../store/nouns.ts'
import type { Store } from '../store/store.ts'
import type { Sealer } from './sealer.ts'

export interface CredentialRow extends NounRow {
  readonly spec: { readonly kind: CredentialKind; readonly fields: readonly string[] }
  readonly sealed: string
}

export function credentialsOf(store: Store): Nouns<CredentialRow> {
  return new Nouns(store, 'credentials', 'credential')
}

/** The columns that hold these values; bound to the row's id. */
export function sealedColumns(sealer: Sealer, id: string, values: CredentialValues) {
  const fields = Object.keys(values).filter((name) => name !== 'kind')
  return {
    spec: { kind: values.kind, fields },
    sealed: sealer.seal(JSON.stringify(values), `credentials/${id}`),
  }
}

/**
 * What a credential holds, for whoever acts on behalf of its project: it must go to the one process that needs it, and
 * into no row, event or log. Throws UserError when there is none of this name and kind.
 */
export async function openCredential<Kind extends CredentialKind>(
  { store, sealer }: { store: Store; sealer: Sealer },
  project: string,
  name: string,
  kind: Kind,
): Promise<Extract<CredentialValues, { kind: Kind }>> {
  const row = await credentialsOf(store).named(project, name)
  if (row === undefined)
    throw new UserError(`The project has no credential ${name}.`, {
      failure: 'not_found',
      fix: `ropeway credential create ${name} --kind ${kind}`,
    })
  if (row.spec.kind !== kind)
    throw new UserError(`The credential ${name} is for ${row.spec.kind}, and ${kind} is needed.`, {
      failure: 'usage',
      fix: 'Name another credential.',
    })
  return JSON.parse(sealer.open(row.sealed, `credentials/${row.id}`))
}
