import { Link } from '@tanstack/react-router'
import type { FormEvent } from 'react'
import type { z } from 'zod'
import type { placeLink } from '../../../src/api/control/places.ts'
import { useDeed } from '../service.ts'
import { Problem } from './problem.tsx'
import { namePattern } from './upload.tsx'

interface LinkFormProps {
  readonly project: string
  /** What is made of the link: `dataset`. */
  readonly what: string
  /** Names of endpoints that list those begin so. */
  readonly changes: string
  link(name: string, link: z.input<typeof placeLink>): Promise<{ readonly name: string }>
  onDone(name: string): void
}

/** Names what lies in a bucket or folder; nothing is copied. */
export function LinkForm({ project, what, changes, link, onDone }: LinkFormProps) {
  const deed = useDeed(
    ({ name, ...place }: { name: string } & z.input<typeof placeLink>) => link(name, place),
    [changes],
    ({ name }) => onDone(name),
  )
  const send = (event: FormEvent<HTMLFormElement>) => {
    event.preventDefault()
    const given = new FormData(event.currentTarget)
    const text = (name: string) => String(given.get(name)).trim()
    deed.mutate({
      ...{ name: text('name'), url: text('url') },
      ...(text('credential') !== '' && { credential: text('credential') }),
      ...(text('endpoint') !== '' && { endpoint: text('endpoint') }),
    })
  }
  return (
    <form onSubmit={send}>
      <p className="quiet">
        <code>s3://BUCKET/PREFIX</code>, <code>gs://BUCKET/PREFIX</code>, <code>az://CONTAINER/PREFIX</code>,{' '}
        <code>{what === 'dataset' ? 'hf://datasets/ORG/NAME' : 'hf://ORG/NAME'}</code>, or{' '}
        <code>file:///FOLDER</code> of the machine of the service, where <code>ropeway up --link-folder</code>{' '}
        allows it. A credential is stored under{' '}
        <Link to="/projects/$project/credentials" params={{ project }}>
          Credentials
        </Link>
        .
      </p>
      <div className="row">
        <label>
          Name of the {what}
          <input name="name" required pattern={namePattern} />
        </label>
        <label className="long">
          Where it lies
          <input name="url" required maxLength={2000} placeholder="s3://bucket/prefix" />
        </label>
        <label>
          Credential (if it needs one)
          <input name="credential" maxLength={63} />
        </label>
        <label>
          Endpoint (if not Amazon's)
          <input name="endpoint" type="url" maxLength={2000} />
        </label>
        <button type="submit" className="main" disabled={deed.isPending}>
          {deed.isPending ? 'Looking ...' : 'Link'}
        </button>
      </div>
      <Problem error={deed.error} />
    </form>
  )
}
