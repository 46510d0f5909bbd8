import type { FormEvent } from 'react'
import { createKey, listKeys, revokeKey } from '../../../src/api/control/keys.ts'
import { Confirm } from '../parts/confirm.tsx'
import { Copy } from '../parts/copy.tsx'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'
import { timeText } from '../text.ts'

const keysShown = 200

/** What a key may do, in words: the first is what most are for. */
const uses: Readonly<Record<string, readonly string[]>> = {
  'ask deployments': ['deployment:use'],
  'look at everything': ['*:view'],
  'upload data and run jobs': ['dataset:*', 'job:*', 'checkpoint:view', 'model:view'],
  'do all that I may': ['*'],
}

/** Keys of programs that ask this project. */
export function Keys() {
  const project = useProject()
  const query = { limit: keysShown }
  const { data, error } = useAnswer(listKeys, { params: { project }, query }, { every: seldom })
  const revoke = useDeed((key: string) => service.call(revokeKey, { params: { project, key } }), ['keys.'])
  return (
    <>
      <h1>Keys</h1>
      <NewKey project={project} />
      <h2>Keys of {project}</h2>
      <Problem error={error ?? revoke.error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="No keys yet. A program that asks this project needs one: make it above."
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
              isBusy={revoke.isPending}
              onConfirm={() => revoke.mutate(id)}
            >
              Programs that use it are refused at once. It cannot be taken back.
            </Confirm>
          ),
        }}
      />
      {data?.next && <p className="quiet">Only {keysShown} are shown; ropeway key list has them all.</p>}
    </>
  )
}

function NewKey({ project }: { project: string }) {
  const make = useDeed(
    (body: { name: string; scopes: string[]; days?: number }) =>
      service.call(createKey, { params: { project }, body }),
    ['keys.'],
  )
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    const days = Number(given.get('days'))
    make.mutate({
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
        <button type="submit" className="main" disabled={make.isPending}>
          Make a key
        </button>
      </form>
      <Problem error={make.error} />
      {make.data && (
        <div className="made" role="status">
          <p>
            <strong>{make.data.name}</strong> is shown here now and never again:
          </p>
          <Copy text={make.data.key} label="the new key" />
          <p className="quiet">
            Programs for OpenAI's API take it as their key, with {location.origin}/v1 as the address.
          </p>
        </div>
      )}
    </>
  )
}
