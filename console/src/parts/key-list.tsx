import type { FormEvent } from 'react'
import type { z } from 'zod'
import type { key, newKey } from '../../../src/api/control/keys.ts'
import { useDeed } from '../service.ts'
import { timeText } from '../text.ts'
import { Confirm } from './confirm.tsx'
import { Copy } from './copy.tsx'
import { Problem } from './problem.tsx'
import { Table } from './table.tsx'
import { Ago } from './time.tsx'

type Key = z.output<typeof key>

/** What a key may do, in words: the first is what most are for. */
const uses: Readonly<Record<string, readonly string[]>> = {
  'ask deployments': ['deployment:use'],
  'look at everything': ['*:view'],
  'upload data and run jobs': ['dataset:*', 'job:*', 'checkpoint:view', 'model:view'],
  'do all that I may': ['*'],
}

interface KeyListProps {
  readonly keys: readonly Key[] | undefined
  readonly empty: string
  /** Names of endpoints that list them begin so. */
  readonly changes: string
  revoke(key: string): Promise<unknown>
}

export function KeyList({ keys, empty, changes, revoke }: KeyListProps) {
  const deed = useDeed(revoke, [changes])
  return (
    <>
      <Problem error={deed.error} />
      <Table
        rows={keys}
        keyOf={({ id }) => id}
        empty={empty}
        columns={{
          Name: ({ name }) => name,
          'Begins with': ({ shown }) => <code>{shown}</code>,
          May: ({ scopes }) => scopes.join(', '),
          Made: ({ created_at }) => <Ago at={created_at} />,
          'Last used': ({ last_used_at }) => (last_used_at === null ? 'never' : <Ago at={last_used_at} />),
          Ends: ({ expires_at }) => (expires_at === null ? 'never' : timeText(expires_at)),
          '': ({ id, name }) => (
            <Confirm
              verb="Revoke"
              title={`Revoke the key ${name}?`}
              isBusy={deed.isPending}
              onConfirm={() => deed.mutate(id)}
            >
              Programs that use it are refused at once. It cannot be taken back.
            </Confirm>
          ),
        }}
      />
    </>
  )
}

interface NewKeyProps {
  readonly changes: string
  make(body: { name: string; scopes: string[]; days?: number }): Promise<z.output<typeof newKey>>
}

/** Makes a key, and shows it this once. */
export function NewKey({ changes, make }: NewKeyProps) {
  const deed = useDeed(make, [changes])
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    const days = Number(given.get('days'))
    deed.mutate({
      name: String(given.get('name')).trim(),
      scopes: [...uses[String(given.get('use'))]!],
      ...(days > 0 && { days }),
    })
  }
  return (
    <>
      <form onSubmit={send} className="row">
        <label>
          Name
          <input name="name" required maxLength={100} placeholder="what it is for" />
        </label>
        <label>
          It may
          <select name="use">
            {Object.keys(uses).map((use) => (
              <option key={use}>{use}</option>
            ))}
          </select>
        </label>
        <label>
          Days it is good for
          <input name="days" type="number" min={1} max={3650} placeholder="for ever" />
        </label>
        <button type="submit" className="main" disabled={deed.isPending}>
          Make a key
        </button>
      </form>
      <Problem error={deed.error} />
      {deed.data && (
        <div className="made" role="status">
          <p>
            <strong>{deed.data.name}</strong> is shown here now and never again:
          </p>
          <Copy text={deed.data.key} label="the new key" />
          <p className="quiet">
            Programs for OpenAI's API take it as their key, with {location.origin}/v1 as the address.
          </p>
        </div>
      )}
    </>
  )
}
