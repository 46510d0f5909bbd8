import { useParams } from '@tanstack/react-router'

/** The project that the address names. */
export function useProject(): string {
  return useParams({ strict: false, select: ({ project }) => project! })
}
