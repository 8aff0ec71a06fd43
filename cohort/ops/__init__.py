"""Operations on images, masks and labels: DataArray to DataArray or table. No input or output."""
