import { Link } from '@tanstack/react-router'
import { useState } from 'react'
import {
  type CredentialUse,
  deleteCredential,
  listCredentials,
  listCredentialUses,
} from '../../../src/api/control/credentials.ts'
import { Confirm } from '../parts/confirm.tsx'
import { CredentialForm } from '../parts/credential-form.tsx'
import { May, useMay } from '../parts/may.tsx'
import { Problem } from '../parts/problem.tsx'
import { Table } from '../parts/table.tsx'
import { Ago } from '../parts/time.tsx'
import { useProject } from '../project.ts'
import { seldom, service, useAnswer, useDeed } from '../service.ts'

const credentialsShown = 200

interface Stored {
  readonly id: string
  readonly name: string
  readonly kind: string
}

/** Secrets that jobs and links use by name. */
export function Credentials() {
  const project = useProject()
  return (
    <>
      <h1>Credentials</h1>
      <p>
        Jobs and links use them by name: <code>{'job: {credentials: [NAME]}'}</code> puts one into what the
        programs of a job find in their environment, and a link says which one opens its place. They are kept
        encrypted, and what they hold is never shown again.
      </p>
      <May permission="credential:view" what="see which credentials there are">
        <CredentialsOf project={project} />
      </May>
    </>
  )
}

function CredentialsOf({ project }: { project: string }) {
  const [replaced, replace] = useState<Stored>()
  const [stored, setStored] = useState<string>()
  const done = (name: string) => {
    replace(undefined)
    setStored(name)
  }
  return (
    <>
      <CredentialTable project={project} onReplace={replace} />
      <h2>{replaced === undefined ? 'Another one' : `Other values for ${replaced.name}`}</h2>
      <May permission="credential:create" what="store, replace and delete credentials">
        <CredentialForm
          key={replaced?.id ?? ''}
          project={project}
          {...(replaced && { replaced })}
          onStored={done}
        />
        {replaced !== undefined && (
          <button type="button" onClick={() => replace(undefined)}>
            Leave it as it is
          </button>
        )}
        <p className="quiet" role="status">
          {stored !== undefined && replaced === undefined && `${stored} is stored.`}
        </p>
      </May>
    </>
  )
}

interface CredentialTableProps {
  readonly project: string
  onReplace(credential: Stored): void
}

function CredentialTable({ project, onReplace }: CredentialTableProps) {
  const mayChange = useMay('credential:delete')
  const query = { limit: credentialsShown }
  const { data, error } = useAnswer(listCredentials, { params: { project }, query }, { every: seldom })
  const named = useAnswer(listCredentialUses, { params: { project } }, { every: seldom })
  const uses = named.data?.items ?? []
  const remove = useDeed(
    (credential: string) => service.call(deleteCredential, { params: { project, credential } }),
    ['credentials.'],
  )
  return (
    <>
      <Problem error={error ?? named.error ?? remove.error} />
      <Table
        rows={data?.items}
        keyOf={({ id }) => id}
        empty="No credentials yet."
        columns={{
          Name: ({ name }) => name,
          Kind: ({ kind }) => kind,
          Holds: ({ fields }) => fields.map((field) => field.replaceAll('_', ' ')).join(', '),
          'Used by': ({ name }) => (
            <Users project={project} uses={uses.filter(({ credential }) => credential === name)} />
          ),
          Made: ({ created_at }) => <Ago at={created_at} />,
          Changed: ({ created_at, updated_at }) => updated_at !== created_at && <Ago at={updated_at} />,
          '': ({ id, name, kind }) =>
            mayChange && (
              <span className="row">
                <button type="button" onClick={() => onReplace({ id, name, kind })}>
                  Replace
                </button>
                <Confirm
                  verb="Delete"
                  title={`Delete the credential ${name}?`}
                  isBusy={remove.isPending}
                  onConfirm={() => remove.mutate(id)}
                >
                  It is gone at once, and nobody can bring it back. Links that name it can be read no more,
                  and jobs that name it fail when they start.
                </Confirm>
              </span>
            ),
        }}
      />
      {data?.next && (
        <p className="quiet">Only {credentialsShown} are shown; ropeway credential list has them all.</p>
      )}
    </>
  )
}

interface UsersProps {
  readonly project: string
  readonly uses: readonly CredentialUse[]
}

function Users({ project, uses }: UsersProps) {
  return (
    <ul className="plain">
      {uses.map((use) => (
        <li key={use.id}>
          {use.by} <User project={project} use={use} />
        </li>
      ))}
    </ul>
  )
}

function User({ project, use: { by, id, name } }: { project: string; use: CredentialUse }) {
  switch (by) {
    case 'dataset':
      return (
        <Link to="/projects/$project/data/$dataset" params={{ project, dataset: name }}>
          {name}
        </Link>
      )
    case 'job':
      return (
        <Link to="/projects/$project/jobs/$job" params={{ project, job: id }}>
          {name}
        </Link>
      )
    case 'template':
      return (
        <Link to="/projects/$project/new-job" params={{ project }} search={{ template: name }}>
          {name}
        </Link>
      )
    case 'deployment':
      return (
        <Link to="/projects/$project/deployments/$deployment" params={{ project, deployment: name }}>
          {name}
        </Link>
      )
    case 'checkpoint':
      return (
        <Link to="/projects/$project/checkpoints" params={{ project }}>
          {name}
        </Link>
      )
  }
}
