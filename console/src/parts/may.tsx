import type { ReactNode } from 'react'
import {
  leastRoles,
  type Noun,
  type Permission,
  roleAllows,
  type Verb,
} from '../../../src/api/control/permissions.ts'
import { viewProject } from '../../../src/api/control/projects.ts'
import { useProject } from '../project.ts'
import { useAnswer } from '../service.ts'
import { Waiting } from './waiting.tsx'

interface MayProps {
  readonly permission: Permission
  /** What the permission is for: `store credentials`. */
  readonly what: string
  readonly children: ReactNode
}

/** Whether this person's role in the project lets them; undefined until that is known. */
export function useMay(permission: Permission): boolean | undefined {
  const params = { project: useProject() }
  const { data } = useAnswer(viewProject, { params })
  return data && roleAllows(data.role, permission)
}

/** What only some may do; to others, why it is not there. */
export function May({ permission, what, children }: MayProps) {
  const project = useProject()
  const { data, error } = useAnswer(viewProject, { params: { project } })
  if (data === undefined) return <Waiting error={error} />
  if (roleAllows(data.role, permission)) return children
  const [noun, verb] = permission.split(':') as [Noun, Verb]
  return (
    <p className="empty">
      You are {data.role} in {project}. It takes {leastRoles[noun][verb]} to {what}; an admin of the project
      can give you that role.
    </p>
  )
}
